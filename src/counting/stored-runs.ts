// Remembers which sessions have many runs in the ledger: a flush reads and writes all of them, however few it adds.

import type { Session } from './sessions.js'

/** A flush tells of the sessions that have at least so many. */
export const MANY_RUNS = 20
/** Of more, those that were flushed longest ago are forgotten. */
const MAX_SESSIONS = 20_000

export class StoredRuns {
  readonly #runs = new Map<string, number>()

  /** How many runs the ledger is known to have of a session; 0 if they are few, or not known. */
  of(workspaceId: string, sessionId: string): number {
    return this.#runs.size === 0 ? 0 : (this.#runs.get(workspaceId + sessionId) ?? 0)
  }

  /** `runs` are those of the sessions that have many, by their positions. */
  learn(sessions: Iterable<Session>, runs: Readonly<Record<number, number>>): void {
    if (this.#runs.size === 0 && Object.keys(runs).length === 0) return
    let position = 0
    for (const { workspaceId, sessionId } of sessions) {
      const id = workspaceId + sessionId
      const stored = runs[position++]
      this.#runs.delete(id)
      if (stored !== undefined) this.#runs.set(id, stored)
    }
    for (const oldest of this.#runs.keys()) {
      if (this.#runs.size <= MAX_SESSIONS) return
      this.#runs.delete(oldest)
    }
  }
}
