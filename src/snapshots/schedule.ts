// The schedule of snapshots: attempts one at each boundary of the interval, by the database's clock.

import { backoff, pause } from '../async.js'
import type { SnapshotOutcome } from './snapshot.js'

export interface ScheduleOptions {
  intervalMs: number
  /** Takes the snapshot that is due; `not_due` if it is already recorded. */
  attempt: () => Promise<SnapshotOutcome>
  /** Called with each rejection of `attempt`, which is then retried. */
  onError: (error: unknown) => void
}

const BUSY_RETRY_MS = 1_000
const FIRST_RETRY_MS = 500
const LONGEST_RETRY_MS = 30_000

/**
 * Runs until aborted. All replicas race for each boundary; the advisory lock and the recorded period let exactly one
 * of them win. A replica that finds the lock taken tries again a second later, so that the period is reported even if
 * the holder of the lock fails.
 */
export async function runSchedule(options: ScheduleOptions, signal: AbortSignal): Promise<void> {
  const { intervalMs, attempt, onError } = options
  let failures = 0
  while (!signal.aborted) {
    let wait: number
    try {
      wait = nextWait(await attempt(), intervalMs)
      failures = 0
    } catch (error) {
      onError(error)
      wait = backoff(++failures, FIRST_RETRY_MS, Math.min(LONGEST_RETRY_MS, intervalMs))
    }
    await pause(wait, { signal })
  }
}

function nextWait(outcome: SnapshotOutcome, intervalMs: number): number {
  return outcome.result === 'busy' ? BUSY_RETRY_MS : untilBoundary(outcome.now, intervalMs)
}

/** Milliseconds from `now` to the next multiple of `intervalMs` since 1970. */
export function untilBoundary(now: Date, intervalMs: number): number {
  return intervalMs - (now.getTime() % intervalMs)
}
