// The schedule of snapshots: one at each boundary of the interval, by the database's clock.

import { backoff, Waker } from '../async.js'
import { boundaryBefore } from '../reporting/clock.js'
import type { SnapshotOutcome } from './snapshot.js'

export interface ScheduleOptions {
  intervalMs: number
  /** The database's clock, in milliseconds since 1970. */
  now: () => number
  /** Whether this replica goes first. */
  goesFirst: () => boolean
  /** How long a replica that does not go first leaves the snapshot to the one that does, or to one that has begun. */
  checkMs: number
  /** The longest wait: the clock may be corrected meanwhile. */
  longestWaitMs: number
  /** Takes the snapshot of the period that ends at the boundary; `not_due` if it is already recorded. */
  attempt: (boundary: number) => Promise<SnapshotOutcome>
  /** Called with each rejection of `attempt`, which is then retried. */
  onError: (error: unknown) => void
}

const FIRST_RETRY_MS = 500
const LONGEST_RETRY_MS = 30_000

/**
 * Each replica may take any snapshot; the advisory lock and the recorded period let exactly one do so. To spare the
 * database, one replica goes first, and the others look a moment later, unless they have heard that it was taken.
 */
export class Schedule {
  #recordedUntil = Number.NEGATIVE_INFINITY
  readonly #waker = new Waker()
  readonly #options: ScheduleOptions

  constructor(options: ScheduleOptions) {
    this.#options = options
  }

  /** A snapshot of the period that ended at `until` is recorded. */
  recorded(until: number): void {
    this.#recordedUntil = until
    this.#waker.wake()
  }

  /** Runs until aborted. The first boundary has passed when it begins, so it does not wait for another replica. */
  async run(signal: AbortSignal): Promise<void> {
    const { intervalMs, now, goesFirst, longestWaitMs, attempt, onError } = this.#options
    // The next boundary comes first if the interval is short.
    const checkMs = Math.min(this.#options.checkMs, intervalMs / 2)
    let retryAt = 0 // on the monotonic clock: the database's may be set back
    let failures = 0
    while (!signal.aborted) {
      const clock = now() // once: between two readings a boundary can pass
      const boundary = boundaryBefore(clock, intervalMs)
      const next = this.#recordedUntil >= boundary ? boundary + intervalMs : boundary
      const waitMs = Math.max(next + (goesFirst() ? 0 : checkMs) - clock, retryAt - performance.now())
      if (waitMs > 0) {
        await this.#waker.wait(Math.min(waitMs, longestWaitMs), { signal })
        continue
      }
      try {
        const { result } = await attempt(boundary)
        if (result === 'busy' || result === 'early') retryAt = performance.now() + checkMs
        else this.#recordedUntil = boundary
        failures = 0
      } catch (error) {
        onError(error)
        const delayMs = backoff(++failures, FIRST_RETRY_MS, Math.min(LONGEST_RETRY_MS, intervalMs))
        retryAt = performance.now() + delayMs
      }
    }
  }
}
