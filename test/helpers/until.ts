// The one way in which tests wait.

import { setTimeout as sleep } from 'node:timers/promises'

/** Only a fault takes so long, even on a slow and busy machine. */
const LIMIT_MS = 60_000
/** Looked at this often at first, and less often the longer it takes: looking costs several processes CPU time. */
const POLL_MS = 5
const LONGEST_POLL_MS = 40

export interface Wait {
  /** What is waited for; the error says that it never came. */
  what: string
  /** In milliseconds. */
  limit?: number
}

/**
 * Resolves with what `condition` gives once that is neither undefined nor false; rejects after `limit`. What the
 * condition throws ends the wait.
 */
export async function until<T>(
  condition: () => T | undefined | false | Promise<T | undefined | false>,
  { what, limit = LIMIT_MS }: Wait,
): Promise<T> {
  const deadline = performance.now() + limit
  for (let poll = POLL_MS; ; poll = Math.min(poll * 1.3, LONGEST_POLL_MS)) {
    const value = await condition()
    if (value !== undefined && value !== false) return value
    if (performance.now() > deadline) throw new Error(`waited ${limit} ms for ${what}`)
    await sleep(poll)
  }
}
