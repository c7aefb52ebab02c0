// Boundaries behind forwarders, for the soak run: forwarders are killed at random, and what each kill may lose is known.

import { randomInt, randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type BoundaryConnection, boundaryLogs, connectBoundary, envelopeFrame } from '../helpers/boundary.js'
import { type Forwarder, scratch, startForwarder } from '../helpers/forwarder.js'
import type { Scope } from '../helpers/scope.js'
import { until } from '../helpers/until.js'

/** Boundaries that write to one forwarder. */
const BOUNDARIES = 10
const FRAME_PAUSE_MS = 50
const KILL_MS = 10_000
/** A forwarder has written to its spool what it read so long ago. */
const SPOOLED_MS = 100
/** How long the service may take to acknowledge all that is left after the faults. */
const DRAIN_MS = 120_000

interface Session {
  readonly workspaceId: string
  readonly id: string
  /** How many logs it has made: their numbers are 0, 1, 2 … */
  logs: number
}

export class Forwarded {
  readonly sessions: Session[] = []
  kills = 0
  /** Logs written so shortly before a kill that they need not be in the spool. */
  inDoubt = 0
  refused = 0
  dropped = 0
  readonly #scope: Scope
  readonly #urls: string[]
  readonly #ended: AbortSignal
  readonly #sessionMs: number

  constructor(scope: Scope, options: { urls: string[]; ended: AbortSignal; sessionMs: number }) {
    this.#scope = scope
    this.#urls = options.urls
    this.#ended = options.ended
    this.#sessionMs = options.sessionMs
  }

  /**
   * One forwarder with its boundaries, killed and replaced until `ended`. Resolves with a function that has each
   * session send a last log, and waits until the service has acknowledged everything.
   */
  async run(): Promise<() => Promise<void>> {
    const directory = await scratch(this.#scope)
    const workspaceId = randomUUID()
    const options = {
      urls: this.#urls,
      socket: join(directory, 'boundary.sock'),
      args: ['--spool', join(directory, 'spool'), '--log-level', 'info'],
      env: { BOUNDARY_USAGE_WORKSPACE_ID: workspaceId, BOUNDARY_USAGE_OWNER_ID: randomUUID() },
    }
    const boundaries = Array.from({ length: BOUNDARIES }, () => this.#newSession(workspaceId))
    const own = [...boundaries]
    while (!this.#ended.aborted) {
      const forwarder = await startForwarder(this.#scope, options)
      const connection = await this.#connect(forwarder)
      let written = 0
      const kill = performance.now() + KILL_MS * (0.5 + Math.random())
      while (!this.#ended.aborted && performance.now() < kill) {
        for (const [index, session] of boundaries.entries()) {
          if (Math.random() < FRAME_PAUSE_MS / this.#sessionMs) {
            const next = this.#newSession(workspaceId)
            boundaries[index] = next
            own.push(next)
          } else written += await write(connection, session, randomInt(11))
        }
        await sleep(FRAME_PAUSE_MS)
      }
      await until(async () => (await forwarder.totals()).logs_read === written, {
        what: 'all frames to be read',
      })
      await sleep(SPOOLED_MS)
      for (const session of boundaries) this.inDoubt += await write(connection, session, randomInt(11))
      await this.#tally(forwarder)
      await forwarder.kill()
      await connection.close()
      this.kills++
    }
    return () => this.#finish(options, own)
  }

  async #finish(options: Parameters<typeof startForwarder>[1], own: Session[]): Promise<void> {
    const forwarder = await startForwarder(this.#scope, options)
    const connection = await this.#connect(forwarder)
    for (const session of own) await write(connection, session, 1)
    await until(
      async () => {
        const totals = await forwarder.totals()
        return totals.logs_read === own.length && totals.logs_waiting === 0
      },
      { what: 'all logs of the forwarder to be acknowledged', limit: DRAIN_MS },
    )
    await this.#tally(forwarder)
    await connection.close()
    await forwarder.end()
  }

  async #connect(forwarder: Forwarder): Promise<BoundaryConnection> {
    return connectBoundary(this.#scope, forwarder.socket)
  }

  async #tally(forwarder: Forwarder): Promise<void> {
    const totals = await forwarder.totals()
    this.refused += Number(totals.logs_refused)
    this.dropped +=
      Number(totals.logs_dropped_over_limit) +
      Number(totals.logs_dropped_waiting_for_disk) +
      Number(totals.logs_dropped_too_old)
  }

  #newSession(workspaceId: string): Session {
    const session = { workspaceId, id: randomUUID(), logs: 0 }
    this.sessions.push(session)
    return session
  }
}

/** Writes a frame with the next logs of the session; resolves with their number. */
async function write(connection: BoundaryConnection, session: Session, count: number): Promise<number> {
  if (count === 0) return 0
  const logs = boundaryLogs(count, session.logs)
  session.logs += count
  await connection.send(envelopeFrame({ session_id: session.id, logs }))
  return count
}
