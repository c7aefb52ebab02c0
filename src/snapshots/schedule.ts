// Keeps time for the scheduled snapshots: wakes at each boundary of the interval, by the database's clock.

import { backoff, pause } from '../async.js'
import type { SnapshotOutcome } from './snapshot.js'

export interface ScheduleOptions {
  intervalMs: number
  /** Tries to take the snapshot that is due; `not_due` if it is recorded already. */
  attempt: () => Promise<SnapshotOutcome>
  /** Told what `attempt` rejected with; it is tried again. */
  onError: (error: unknown) => void
}

const LOOK_AGAIN_MS = 1_000
const FIRST_RETRY_MS = 500
const LONGEST_RETRY_MS = 30_000

/**
 * Runs until aborted. All replicas run it and race for each boundary; the lock and the record of the period let
 * one of them win. A replica that finds the lock taken looks again a moment later, so that a period is reported
 * even if the one that held the lock has failed.
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
  return outcome.result === 'busy' ? LOOK_AGAIN_MS : untilBoundary(outcome.now, intervalMs)
}

/** Milliseconds from `now` to the next multiple of `intervalMs` since 1970. */
export function untilBoundary(now: Date, intervalMs: number): number {
  return intervalMs - (now.getTime() % intervalMs)
}
