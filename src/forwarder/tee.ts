// Passes frames on to another socket, usually the workspace agent's own. It delays nothing: what that socket does not
// take in time is dropped, whole frames only.

import { connect, type Socket } from 'node:net'
import { pause } from '../async.js'
import { type Log, Trouble } from './log.js'
import type { Totals } from './totals.js'

/** What may wait for each connection. */
const MAX_WAITING_BYTES = 256 * 1024
/** What a frame takes besides its bytes while it waits. An empty one has four bytes. */
const FRAME_BYTES = 320
const RECONNECT_MS = 1_000
/** How long the other side may take for the rest after the boundary has gone. */
const END_TIMEOUT_MS = 5_000

export class Tee {
  readonly #path: string
  readonly #totals: Totals
  readonly #trouble: Trouble
  readonly #full: Trouble
  readonly #branches = new Set<Branch>()

  constructor({ path, totals, log }: { path: string; totals: Totals; log: Log }) {
    this.#path = path
    this.#totals = totals
    this.#trouble = new Trouble(
      log,
      'cannot pass frames on to --tee: they are dropped there',
      'passing frames on to --tee again',
    )
    this.#full = new Trouble(log, '--tee is too slow: frames are dropped there', '--tee keeps up again')
  }

  /** One connection for one boundary's connection. */
  branch(): Branch {
    const branch = new Branch(this.#path, {
      dropped: (reason) => {
        this.#totals.tee_frames_dropped++
        if (reason === 'full') this.#full.failed({ tee: this.#path })
      },
      connected: () => this.#trouble.worked({ tee: this.#path }),
      failed: (reason) => this.#trouble.failed({ tee: this.#path, reason }),
      drained: () => this.#full.worked({ tee: this.#path }),
      closed: () => this.#branches.delete(branch),
    })
    this.#branches.add(branch)
    return branch
  }

  /** Resolves when all that waits was passed on, or was given up. */
  async end(): Promise<void> {
    for (const branch of this.#branches) branch.end()
    while (this.#branches.size > 0) await pause(20)
  }
}

interface Events {
  dropped(reason: 'gone' | 'full'): void
  connected(): void
  failed(reason: string): void
  drained(): void
  closed(): void
}

export class Branch {
  readonly #path: string
  readonly #events: Events
  #socket: Socket | undefined
  #waitingFrames = 0
  #retryAt = 0
  #isEnding = false

  constructor(path: string, events: Events) {
    this.#path = path
    this.#events = events
  }

  pass(frame: Buffer): void {
    if (this.#socket === undefined && performance.now() >= this.#retryAt) this.#connect()
    const socket = this.#socket
    if (socket === undefined) return void this.#events.dropped('gone')
    const waiting = socket.writableLength + this.#waitingFrames * FRAME_BYTES
    if (waiting + frame.length > MAX_WAITING_BYTES) return void this.#events.dropped('full')
    let waits = 0
    socket.write(frame, (error) => {
      this.#waitingFrames -= waits
      if (error) this.#events.dropped('gone')
    })
    if (socket.writableLength > 0) this.#waitingFrames += waits = 1
  }

  end(): void {
    this.#isEnding = true
    if (this.#socket === undefined) return void this.#events.closed()
    const socket = this.#socket
    socket.end()
    const timer = setTimeout(() => socket.destroy(), END_TIMEOUT_MS)
    socket.once('close', () => clearTimeout(timer))
  }

  #connect(): void {
    const socket = connect(this.#path)
    this.#socket = socket
    socket.on('connect', () => this.#events.connected())
    socket.on('error', (error) => this.#events.failed(String(error)))
    socket.on('drain', () => this.#events.drained())
    socket.resume() // nothing is expected, and nothing may pile up
    socket.on('close', () => {
      this.#socket = undefined
      this.#retryAt = performance.now() + RECONNECT_MS
      if (this.#isEnding) this.#events.closed()
    })
  }
}
