// @ts-check
// Reads the usage of a range: requests by period or bucket, distinct users and workspaces by bucket, and the totals.

import { request } from './api.js'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

/** The ranges: length and bucket size. A day shows individual periods, unless there are too many. */
export const RANGES = /** @type {const} */ ({
  day: { ms: DAY_MS, by: 'hour', bucketMs: HOUR_MS, hasPeriods: true },
  week: { ms: 7 * DAY_MS, by: 'hour', bucketMs: HOUR_MS, hasPeriods: false },
  month: { ms: 30 * DAY_MS, by: 'day', bucketMs: DAY_MS, hasPeriods: false },
  quarter: { ms: 91 * DAY_MS, by: 'day', bucketMs: DAY_MS, hasPeriods: false },
})
/** @typedef {keyof typeof RANGES} Range */

const PAGE = 500
const MAX_PAGES = 3

/**
 * @typedef {{ unique_users: number, unique_workspaces: number, allowed_requests: number, denied_requests: number,
 *   duplicate_requests: number, missing_requests: number, recovered_requests: number }} Counts
 */
/** @typedef {Counts & { snapshots: number }} Usage */
/** @typedef {Counts & { start: number, end: number }} Interval one bucket or period; times in ms since 1970 */
/**
 * @typedef {Counts & { id: string | null, trigger: string, replicas: number, period_start: string,
 *   period_end: string, period_duration_ms: number, taken_at: string }} Snapshot
 */
/**
 * @typedef {{ state: 'pending' | 'delivered' | 'dead', attempts: number, due_at: string | null,
 *   delivered_at: string | null, error: string | null }} Delivery
 */
/** @typedef {{ snapshots: (Snapshot & { delivery: Delivery | null })[], next: string | null }} SnapshotPage */

/** @param {Range} range @param {number} to */
export async function readHistory(range, to) {
  const { ms, by, bucketMs, hasPeriods } = RANGES[range]
  const from = Math.floor((to - ms) / bucketMs) * bucketMs
  const query = new URLSearchParams({ from: iso(from), to: iso(to), by })
  /** @type {[{ total: Usage, buckets: (Usage & { start: string, end: string })[] }, Interval[] | undefined]} */
  const [usage, periods] = await Promise.all([
    request(`telemetry/usage?${query}`),
    hasPeriods ? readPeriods(from, to) : undefined,
  ])
  const buckets = usage.buckets.map((bucket) => ({
    ...bucket,
    start: Date.parse(bucket.start),
    end: Math.min(Date.parse(bucket.end), to),
  }))
  // Omit the last bucket until a period has ended in it: zeros would suggest that all traffic had stopped.
  if (buckets.at(-1)?.snapshots === 0) buckets.pop()
  if (usage.total.snapshots === 0) buckets.length = 0
  return {
    from,
    to,
    total: usage.total,
    buckets,
    requests: periods ?? buckets,
    perBucket: by === 'day' ? 'per day (UTC)' : 'per hour',
    perRequest: periods ? 'per period' : by === 'day' ? 'per day (UTC)' : 'per hour',
    /** Days are UTC days, so their axis must be in UTC. */
    isUtc: by === 'day',
  }
}

/** The periods that ended in the range, oldest first; undefined if there are too many to show. */
/** @param {number} from @param {number} to @returns {Promise<Interval[] | undefined>} */
async function readPeriods(from, to) {
  /** @type {Interval[]} */
  const periods = []
  let before = iso(to + 1)
  for (let page = 0; page < MAX_PAGES; page++) {
    const query = new URLSearchParams({ limit: String(PAGE), before })
    /** @type {SnapshotPage} */
    const { snapshots, next } = await request(`telemetry/snapshots?${query}`)
    for (const snapshot of snapshots) {
      const end = Date.parse(snapshot.period_end)
      if (end <= from) return periods.reverse()
      periods.push({ ...snapshot, start: Date.parse(snapshot.period_start), end })
    }
    if (next === null) return periods.reverse()
    before = next
  }
  return undefined
}

/** @param {number} ms */
const iso = (ms) => new Date(ms).toISOString()
