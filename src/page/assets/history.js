// @ts-check
// Reads the usage of a range: by period or bucket, in total, and in total of the time before it.

import { request } from './api.js'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

/** The ranges: their length and their buckets. An hour has no buckets: it shows the periods. */
export const RANGES = /** @type {const} */ ({
  hour: { ms: HOUR_MS, by: 'hour', bucketMs: 0 },
  day: { ms: DAY_MS, by: 'hour', bucketMs: HOUR_MS },
  week: { ms: 7 * DAY_MS, by: 'hour', bucketMs: HOUR_MS },
  month: { ms: 30 * DAY_MS, by: 'day', bucketMs: DAY_MS },
  quarter: { ms: 91 * DAY_MS, by: 'day', bucketMs: DAY_MS },
})
/** @typedef {keyof typeof RANGES} Range */

const PAGE = 1_000
/** As many periods as an hour has at the shortest interval. */
const MAX_PAGES = 4

/**
 * @typedef {{ unique_users: number, unique_workspaces: number, allowed_requests: number, denied_requests: number,
 *   duplicate_requests: number, missing_requests: number, recovered_requests: number,
 *   new_users?: number | null, new_workspaces?: number | null, new_users_error?: number | null,
 *   new_workspaces_error?: number | null }} Counts
 */
/** @typedef {Counts & { snapshots: number }} Usage */
/**
 * @typedef {Counts & { start: number, end: number, snapshots: number, isCurrent?: boolean }} Interval
 *   one bucket or period; times in ms since 1970. Without snapshots nothing is known of it.
 */
/**
 * @typedef {Counts & { id: string | null, trigger: string, replicas: number, late_replicas?: number | null,
 *   period_start: string, period_end: string, period_duration_ms: number, taken_at: string }} Snapshot
 */
/**
 * @typedef {{ state: 'pending' | 'delivered' | 'dead', attempts: number, due_at: string | null,
 *   delivered_at: string | null, error: string | null }} Delivery
 */
/** @typedef {{ snapshots: (Snapshot & { delivery: Delivery | null })[], next: string | null }} SnapshotPage */
/** @typedef {{ total: Usage, buckets: (Usage & { start: string, end: string })[] }} UsageOfRange */
/** @typedef {Awaited<ReturnType<typeof readHistory>>} History */

/** @param {Range} range @param {number} to */
export async function readHistory(range, to) {
  const { ms, by, bucketMs } = RANGES[range]
  const from = bucketMs === 0 ? to - ms : Math.floor((to - ms) / bucketMs) * bucketMs
  const before = from - (to - from)
  const [usage, intervals, previous] = await Promise.all([
    readUsage(from, to, by),
    bucketMs === 0 ? readPeriods(from, to) : undefined,
    readTotalIfComplete(before, from, by),
  ])
  return { range, from, total: usage.total, previous, intervals: intervals ?? usage.buckets.map(intervalOf) }
}

/**
 * The intervals to show: those of the history that have ended, and the one in progress, to which the current period
 * adds. The distinct counts of that one are at least the larger of both. Nothing is known before the first snapshot, so
 * the intervals begin there.
 * @param {History} history
 * @param {Snapshot} current
 */
export function intervalsWith({ range, from, intervals }, current) {
  const { bucketMs } = RANGES[range]
  const end = Date.parse(current.period_end)
  const start = bucketMs === 0 ? Date.parse(current.period_start) : Math.floor(end / bucketMs) * bucketMs
  const ended = intervals.filter((interval) => interval.end <= start)
  const begun = intervals.find((interval) => interval.start === start)
  const first = ended.findIndex(({ snapshots }) => snapshots > 0)
  return {
    from,
    intervals: [
      ...(first === -1 ? [] : ended.slice(first)),
      { ...(begun ? sum(begun, current) : current), start, end, snapshots: 1, isCurrent: true },
    ],
  }
}

/** @param {Interval} begun @param {Snapshot} current @returns {Counts} */
function sum(begun, current) {
  return {
    ...begun,
    allowed_requests: begun.allowed_requests + current.allowed_requests,
    denied_requests: begun.denied_requests + current.denied_requests,
    unique_users: Math.max(begun.unique_users, current.unique_users),
    unique_workspaces: Math.max(begun.unique_workspaces, current.unique_workspaces),
  }
}

/** @param {Counts} counts @returns {number | null} null if there were no requests */
export function deniedShare({ allowed_requests: allowed, denied_requests: denied }) {
  return allowed + denied === 0 ? null : denied / (allowed + denied)
}

/** New users and workspaces of all intervals; undefined if the service does not report them. */
/** @param {Interval[]} intervals @param {'new_users' | 'new_workspaces'} count */
export function sumOfNew(intervals, count) {
  const known = intervals.flatMap((interval) => interval[count] ?? [])
  return known.length === 0 ? undefined : known.reduce((total, n) => total + n, 0)
}

const COLUMNS = /** @type {const} */ ([
  'snapshots',
  'unique_workspaces',
  'unique_users',
  'allowed_requests',
  'denied_requests',
  'duplicate_requests',
  'missing_requests',
  'recovered_requests',
  'new_workspaces',
  'new_users',
  'new_workspaces_error',
  'new_users_error',
])

/** The intervals that have ended, as CSV in the form of GET /telemetry/usage. @param {Interval[]} intervals */
export function toCsv(intervals) {
  const lines = intervals
    .filter(({ isCurrent }) => !isCurrent)
    .map((interval) => [iso(interval.start), iso(interval.end), ...COLUMNS.map((name) => interval[name])])
  return [['start', 'end', ...COLUMNS], ...lines].map((line) => `${line.join(',')}\r\n`).join('')
}

/** @param {number} from @param {number} to @param {string} by @returns {Promise<UsageOfRange>} */
function readUsage(from, to, by) {
  return request(`telemetry/usage?${new URLSearchParams({ from: iso(from), to: iso(to), by })}`)
}

/** The total; undefined if the first snapshot is later than `from`, because a part of the range is then unknown. */
/** @param {number} from @param {number} to @param {string} by */
async function readTotalIfComplete(from, to, by) {
  /** @type {SnapshotPage} */
  const { snapshots } = await request(`telemetry/snapshots?limit=1&before=${iso(from + 1)}`)
  return snapshots.length === 0 ? undefined : (await readUsage(from, to, by)).total
}

/** The periods that ended in the range, oldest first. @param {number} from @param {number} to */
async function readPeriods(from, to) {
  /** @type {Interval[]} */
  const periods = []
  let before = iso(to + 1)
  for (let page = 0; page < MAX_PAGES; page++) {
    /** @type {SnapshotPage} */
    const { snapshots, next } = await request(`telemetry/snapshots?limit=${PAGE}&before=${before}`)
    for (const snapshot of snapshots) {
      if (Date.parse(snapshot.period_end) <= from) return periods.reverse()
      periods.push(
        intervalOf({ ...snapshot, start: snapshot.period_start, end: snapshot.period_end, snapshots: 1 }),
      )
    }
    if (next === null) break
    before = next
  }
  return periods.reverse()
}

/** @param {Usage & { start: string, end: string }} bucket @returns {Interval} */
function intervalOf(bucket) {
  return { ...bucket, start: Date.parse(bucket.start), end: Date.parse(bucket.end) }
}

/** @param {number} ms */
const iso = (ms) => new Date(ms).toISOString()
