// Reads what is recorded: snapshots, usage over a range of time, and registered replicas.

import { desc, eq, lt, sql } from 'drizzle-orm'
import { MAX_SUM } from '../counting/ledger.js'
import type { Executor } from '../database/client.js'
import { boundaryUsageReplicas, type DELIVERY_STATES, telemetrySnapshots } from '../database/schema.js'
import { distinctCount, type Merged, mergeColumns, mergedJson } from './merge.js'
import { type Snapshot, snapshotColumns, withDuration } from './snapshot.js'

/** The state of a snapshot's delivery to the sink. */
export interface SnapshotDelivery {
  state: (typeof DELIVERY_STATES)[number]
  attempts: number
  due_at: Date | null
  delivered_at: Date | null
  error: string | null
}

export type RecordedSnapshot = Snapshot & { delivery: SnapshotDelivery | null }

export interface SnapshotPage {
  snapshots: RecordedSnapshot[]
  /** The cursor for the next page: the end of this page's last period. Null on the last page. */
  next: Date | null
}

/** At most `limit` snapshots whose period ended before `before`, newest first. */
export async function listSnapshots(db: Executor, limit: number, before?: Date): Promise<SnapshotPage> {
  const rows = await db
    .select(recordedColumns)
    .from(telemetrySnapshots)
    .where(before && lt(telemetrySnapshots.period_end, before))
    .orderBy(desc(telemetrySnapshots.period_end))
    .limit(limit + 1)
  const page = rows.slice(0, limit)
  return {
    snapshots: page.map(recorded),
    next: rows.length > limit ? (page.at(-1)?.period_end ?? null) : null,
  }
}

/** The recorded snapshot with this id; undefined if there is none. */
export async function findSnapshot(db: Executor, id: string): Promise<RecordedSnapshot | undefined> {
  const [row] = await db.select(recordedColumns).from(telemetrySnapshots).where(eq(telemetrySnapshots.id, id))
  return row && recorded(row)
}

const recordedColumns = {
  ...snapshotColumns,
  state: telemetrySnapshots.delivery_state,
  attempts: telemetrySnapshots.delivery_attempts,
  due_at: telemetrySnapshots.delivery_due_at,
  delivered_at: telemetrySnapshots.delivered_at,
  error: telemetrySnapshots.delivery_error,
}

type Recorded = Omit<RecordedSnapshot, 'delivery' | 'period_duration_ms'> &
  Omit<SnapshotDelivery, 'state'> & { state: SnapshotDelivery['state'] | null }

function recorded({ state, attempts, due_at, delivered_at, error, ...snapshot }: Recorded): RecordedSnapshot {
  const delivery = state && { state, attempts, due_at, delivered_at, error }
  return { ...withDuration(snapshot), delivery }
}

/** Usage over a range of snapshots; distinct counts are merged, not summed. */
export interface Usage {
  snapshots: number
  unique_workspaces: number
  unique_users: number
  allowed_requests: number
  denied_requests: number
  duplicate_requests: number
  missing_requests: number
  recovered_requests: number
}

/** A part of the calendar: one hour, day, week or month. */
export interface Interval {
  start: Date
  end: Date
}

export type IntervalUsage = Interval & Usage

export const UNITS = ['hour', 'day', 'week', 'month'] as const
export type Unit = (typeof UNITS)[number]

export interface UsageRange {
  from: Date
  to: Date
  by: Unit
}

interface UsageRow {
  /** The interval's start in milliseconds since 1970; null in the row of the total. */
  start_ms: number | null
  snapshots: number
  allowed_requests: number
  denied_requests: number
  duplicate_requests: number
  missing_requests: number
  recovered_requests: number
  workspaces: Merged
  users: Merged
}

/**
 * Usage from `from` to `to`: the total, and per interval of the calendar (in UTC, weeks start on Monday), including
 * intervals without snapshots. A snapshot belongs to the interval in which its period ends. A period that ends on the
 * boundary of two intervals belongs to the earlier one.
 */
export async function readUsage(
  db: Executor,
  { from, to, by }: UsageRange,
): Promise<UsageRange & { total: Usage; buckets: IntervalUsage[] }> {
  const rows = await db.execute<UsageRow & Record<string, unknown>>(sql`
    with merged as (
      select interval_start, count(*)::int as snapshots,
        coalesce(sum(allowed_requests), 0) as allowed_requests,
        coalesce(sum(denied_requests), 0) as denied_requests,
        coalesce(sum(duplicate_requests), 0) as duplicate_requests,
        least(coalesce(sum(missing_requests), 0), ${MAX_SUM}) as missing_requests,
        coalesce(sum(recovered_requests), 0) as recovered_requests,
        ${mergeColumns('workspaces', sql`unique_workspaces`, sql`workspaces_sketch`)},
        ${mergeColumns('users', sql`unique_users`, sql`users_sketch`)}
      from (
        select *, date_trunc(${by}, (period_end - interval '1 millisecond') at time zone 'UTC') as interval_start
        from telemetry_snapshots
        where period_end > ${from.toISOString()}::timestamptz and period_end <= ${to.toISOString()}::timestamptz
      ) as ended
      group by grouping sets ((interval_start), ())
    )
    select (extract(epoch from interval_start) * 1000)::float8 as start_ms, snapshots,
      allowed_requests::float8, denied_requests::float8,
      duplicate_requests::float8, missing_requests::float8, recovered_requests::float8,
      ${mergedJson('workspaces')} as workspaces, ${mergedJson('users')} as users
    from merged`)
  const byStart = new Map(rows.map((row) => [row.start_ms, usageOf(row)]))
  return {
    from,
    to,
    by,
    total: byStart.get(null) ?? NO_USAGE,
    buckets: intervalsOf({ from, to, by }).map((interval) => ({
      ...interval,
      ...(byStart.get(interval.start.getTime()) ?? NO_USAGE),
    })),
  }
}

const NO_USAGE: Usage = {
  snapshots: 0,
  unique_workspaces: 0,
  unique_users: 0,
  allowed_requests: 0,
  denied_requests: 0,
  duplicate_requests: 0,
  missing_requests: 0,
  recovered_requests: 0,
}

function usageOf({ start_ms: _, workspaces, users, ...sums }: UsageRow): Usage {
  return { ...sums, unique_workspaces: distinctCount(workspaces), unique_users: distinctCount(users) }
}

/** The whole intervals that overlap the range, the first `max` of them. */
export function intervalsOf({ from, to, by }: UsageRange, max = Number.POSITIVE_INFINITY): Interval[] {
  const intervals: Interval[] = []
  for (let start = startOf(from, by); start < to && intervals.length < max; ) {
    const end = startOf(new Date(start.getTime() + LONGEST_INTERVAL_MS[by]), by)
    intervals.push({ start, end })
    start = end
  }
  return intervals
}

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
/** The longest interval of each unit. Added to the start of any interval, it leads into the next one. */
const LONGEST_INTERVAL_MS: Record<Unit, number> = {
  hour: HOUR_MS,
  day: DAY_MS,
  week: 7 * DAY_MS,
  month: 31 * DAY_MS,
}
/** 1970 began on a Thursday. */
const MONDAY_MS = 4 * DAY_MS

function startOf(time: Date, by: Unit): Date {
  if (by === 'month') {
    const start = new Date(0) // not Date.UTC(), which takes the years 0 to 99 for 1900 to 1999
    start.setUTCFullYear(time.getUTCFullYear(), time.getUTCMonth())
    return start
  }
  const offset = by === 'week' ? MONDAY_MS : 0
  const length = LONGEST_INTERVAL_MS[by]
  return new Date(Math.floor((time.getTime() - offset) / length) * length + offset)
}

export const MAX_REPLICAS = 10_000

/** `silent`: no heartbeat within a minute. `stopped`: ended as asked, with nothing left to flush. */
export const REPLICA_STATES = ['live', 'silent', 'stopped'] as const

const replicaState = sql<(typeof REPLICA_STATES)[number]>`case
  when ${boundaryUsageReplicas.stopped_at} is not null then 'stopped'
  when ${boundaryUsageReplicas.seen_at} > now() - interval '1 minute' then 'live'
  else 'silent' end`

/** The registered replicas, oldest first: the newest MAX_REPLICAS of them. */
export async function listReplicas(db: Executor) {
  const { replica_id, name, version, started_at, last_flush_at, seen_at } = boundaryUsageReplicas
  const newestFirst = await db
    .select({ replica_id, name, version, started_at, last_flush_at, seen_at, state: replicaState })
    .from(boundaryUsageReplicas)
    .orderBy(desc(boundaryUsageReplicas.started_at), desc(boundaryUsageReplicas.replica_id))
    .limit(MAX_REPLICAS)
  return newestFirst.reverse()
}
