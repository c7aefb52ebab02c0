// The one way in which tests wait.

import { setTimeout as sleep } from 'node:timers/promises'

/** Only a fault takes so long, even on a slow and busy machine. */
const LIMIT_MS = 60_000
const POLL_MS = 5

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
  for (;;) {
    const value = await condition()
    if (value !== undefined && value !== false) return value
    if (performance.now() > deadline) throw new Error(`waited ${limit} ms for ${what}`)
    await sleep(POLL_MS)
  }
}
