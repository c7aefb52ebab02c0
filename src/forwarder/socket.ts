// The unix socket to which boundaries connect. It reads whatever arrives at once: a boundary whose write blocks drops
// logs, and nothing records that.

import { randomUUID } from 'node:crypto'
import { closeSync, openSync } from 'node:fs'
import { chmod, lstat, rename } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { pause } from '../async.js'
import { WireError } from '../wire.js'
import { type Ids, UUID } from './credentials.js'
import { type Frame, FrameError, FrameReader } from './frames.js'
import { type Log, Trouble } from './log.js'
import type { Store } from './store.js'
import type { Branch, Tee } from './tee.js'
import type { Totals } from './totals.js'
import { MAX_NUMBER, numbered, readMessage, type Log as WireLog } from './wire.js'

const MAX_CONNECTIONS = 256
/** How often to look whether the socket's file is still there. */
const WATCH_MS = 5_000
/** At shutdown a connection is read until nothing has arrived for so long, */
const QUIET_MS = 200
/** and for so long at most. */
const DRAIN_MS = 2_000

export interface IntakeOptions {
  path: string
  mode: number
  /** To whom the logs belong that are read now. */
  ids: () => Ids
  store: Store
  tee: Tee | undefined
  totals: Totals
  log: Log
}

interface Connection {
  readonly socket: Socket
  readonly reader: FrameReader
  branch: Branch | undefined
  /** For logs that come without: the session made for them and its next number. */
  assigned: { sessionId: string; next: number } | undefined
}

export class Intake {
  readonly #options: IntakeOptions
  readonly #servers: Server[] = []
  readonly #connections = new Set<Connection>()
  readonly #crowded: Trouble
  readonly #unreadable: Trouble
  #watch: NodeJS.Timeout | undefined
  #lastRead = 0

  constructor(options: IntakeOptions) {
    this.#options = options
    const { log } = options
    this.#crowded = new Trouble(
      log,
      `refusing connections: ${MAX_CONNECTIONS} are open`,
      'accepting connections again',
    )
    this.#unreadable = new Trouble(log, 'skipping frames that cannot be read', 'frames can be read again')
  }

  get connections(): number {
    return this.#connections.size
  }

  /** Listens, and brings the socket's file back should somebody remove it. */
  async listen(): Promise<void> {
    await this.#publish()
    const { log, path } = this.#options
    this.#watch = setInterval(async () => {
      if (await exists(path)) return
      try {
        await this.#publish()
        log.warn('the socket was removed and has been created again', { socket: path })
      } catch (error) {
        log.error('cannot create the socket again', { socket: path, reason: String(error) })
      }
    }, WATCH_MS)
    this.#watch.unref()
  }

  /** Accepts no more connections, reads what the open ones have sent, and closes them. */
  async drain(): Promise<void> {
    clearInterval(this.#watch)
    await nextTurn() // what has connected by now is accepted
    for (const server of this.#servers) server.close()
    const began = performance.now()
    this.#lastRead = began
    while (
      this.#connections.size > 0 &&
      performance.now() - this.#lastRead < QUIET_MS &&
      performance.now() - began < DRAIN_MS
    )
      await pause(10)
    for (const { socket } of this.#connections) socket.destroy()
  }

  /** Creates the socket under another name and renames it, so that the path is never without one. */
  async #publish(): Promise<void> {
    const { path, mode } = this.#options
    const server = createServer((socket) => this.#accept(socket))
    const directory = openSync(dirname(path), 'r')
    try {
      // Its name is longer than the path may be; on Linux a short one leads there, too.
      const root = process.platform === 'linux' ? `/proc/self/fd/${directory}` : dirname(path)
      const temporary = join(root, `.${randomUUID().slice(0, 8)}`)
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen({ path: temporary, backlog: 1024 }, resolve)
      })
      await chmod(temporary, mode)
      await rename(temporary, join(root, basename(path)))
    } catch (error) {
      server.close()
      throw error
    } finally {
      closeSync(directory)
    }
    server.on('error', (error) =>
      this.#options.log.error('cannot accept a connection', { reason: String(error) }),
    )
    this.#servers.push(server)
  }

  #accept(socket: Socket): void {
    const { tee, totals } = this.#options
    if (this.#connections.size >= MAX_CONNECTIONS) {
      totals.connections_refused++
      this.#crowded.failed({})
      socket.destroy()
      return
    }
    this.#crowded.worked()
    const connection: Connection = {
      socket,
      reader: new FrameReader(),
      branch: undefined,
      assigned: undefined,
    }
    this.#connections.add(connection)
    socket.on('data', (chunk: Buffer) => this.#read(connection, chunk, tee))
    socket.on('error', () => {}) // its close follows
    socket.on('close', () => {
      this.#connections.delete(connection)
      if (connection.reader.pending > 0) totals.connections_cut++
      connection.branch?.end()
    })
  }

  #read(connection: Connection, chunk: Buffer, tee: Tee | undefined): void {
    const { log, totals } = this.#options
    this.#lastRead = performance.now()
    try {
      for (const frame of connection.reader.read(chunk)) {
        totals.frames++
        if (tee) {
          connection.branch ??= tee.branch()
          connection.branch.pass(frame.bytes)
        }
        this.#take(connection, frame)
      }
    } catch (error) {
      if (!(error instanceof FrameError)) throw error
      totals.connections_cut++
      log.warn('closing a connection: it sent what is no frame', { reason: error.message })
      connection.socket.destroy()
    }
  }

  #take(connection: Connection, { tag, message: bytes }: Frame): void {
    const { ids, store, totals } = this.#options
    try {
      const message = readMessage(tag, bytes)
      totals.boundary_dropped_queue_full += message.droppedByBoundary.queueFull
      totals.boundary_dropped_batch_full += message.droppedByBoundary.batchFull
      totals.logs_read += message.logs.length
      const now = Date.now()
      if (message.logs.length === 0) return
      if (UUID.test(message.sessionId)) store.add(ids(), message.sessionId.toLowerCase(), message.logs, now)
      else
        for (const part of assign(connection, message.logs)) store.add(ids(), part.sessionId, part.logs, now)
      this.#unreadable.worked()
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      totals.frames_unreadable++
      this.#unreadable.failed({ reason: error.message })
    }
  }
}

/** Numbers logs in the order in which they were read, in a session of their connection. */
function assign(connection: Connection, logs: WireLog[]): { sessionId: string; logs: WireLog[] }[] {
  const parts: { sessionId: string; logs: WireLog[] }[] = []
  for (const log of logs) {
    if (connection.assigned === undefined || connection.assigned.next > MAX_NUMBER)
      connection.assigned = { sessionId: randomUUID(), next: 0 }
    const { sessionId } = connection.assigned
    const last = parts.at(-1)
    const part = last?.sessionId === sessionId ? last : { sessionId, logs: [] }
    if (part !== last) parts.push(part)
    part.logs.push(numbered(log, connection.assigned.next++))
  }
  return parts
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch {
    return false
  }
}
