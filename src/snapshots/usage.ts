// Usage over a range of time, per interval of the calendar: from days, and from snapshots where those do not suffice.

import { type SQL, sql } from 'drizzle-orm'
import type { Executor } from '../database/client.js'
import { DAY_MS, type Interval, intervalsOf, startOf, type UsageRange } from './calendar.js'
import { dayColumns, dayOf, mergeDays, snapshotAsDay } from './days.js'
import { columnSums, distinctCount, type Kind, type Merged, mergedJson, newIds, type Seen } from './merge.js'

/** Usage over a range; distinct counts are merged, not summed. */
export interface Usage {
  snapshots: number
  unique_workspaces: number
  unique_users: number
  /** Those of them that are in no earlier day, and the standard error of that number. Null by hour. */
  new_workspaces: number | null
  new_users: number | null
  new_workspaces_error: number | null
  new_users_error: number | null
  allowed_requests: number
  denied_requests: number
  duplicate_requests: number
  missing_requests: number
  recovered_requests: number
}

export type IntervalUsage = Interval & Usage

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
  seen_workspaces: Seen
  seen_users: Seen
}

/**
 * Usage from `from` to `to`: the total, and per interval of the calendar (in UTC, weeks start on Monday), including
 * intervals without snapshots. A snapshot belongs to the interval in which its period ends. A period that ends on the
 * boundary of two intervals belongs to the earlier one.
 */
export async function readUsage(
  db: Executor,
  range: UsageRange,
): Promise<UsageRange & { total: Usage; buckets: IntervalUsage[] }> {
  const isHourly = range.by === 'hour'
  const rows = await db.execute<UsageRow & Record<string, unknown>>(sql`
    with part as (
      ${isHourly ? snapshotsIn(range) : daysAndSnapshotsIn(range)}
    ), merged as materialized (
      select start, ${mergeDays(sql`filter (where counts)`)},
        bit_or(workspaces_sketch) filter (where not counts) as workspaces_outside,
        bit_or(users_sketch) filter (where not counts) as users_outside
      from part group by start
    ), bucket as (
      select start, ${dayColumns}, ${before('workspaces', isHourly)}, ${before('users', isHourly)}
      from merged
      window earlier as (order by start nulls first rows between unbounded preceding and 1 preceding)
    ), total as (
      select null::timestamp as start, ${mergeDays()},
        (select workspaces_outside from merged where start is null) as workspaces_before,
        (select users_outside from merged where start is null) as users_before
      from merged where start is not null
    ), usage as materialized (
      select *, workspaces_before | workspaces_sketch as workspaces_after, users_before | users_sketch as users_after
      from (select * from bucket where start is not null union all select * from total) as bucket_or_total
    )
    select (extract(epoch from start) * 1000)::float8 as start_ms, snapshots::float8,
      allowed_requests::float8, denied_requests::float8,
      duplicate_requests::float8, missing_requests::float8, recovered_requests::float8,
      ${mergedJson('workspaces')} as workspaces, ${mergedJson('users')} as users,
      ${seenJson('workspaces')} as seen_workspaces, ${seenJson('users')} as seen_users
    from usage`)
  const usageOf = isHourly ? usageOfHours : usageOfDays
  const none = usageOf(NOTHING)
  const byStart = new Map(rows.map((row) => [row.start_ms, usageOf(row)]))
  return {
    ...range,
    total: byStart.get(null) ?? none,
    buckets: intervalsOf(range).map((interval) => ({
      ...interval,
      ...(byStart.get(interval.start.getTime()) ?? none),
    })),
  }
}

/*
 * The parts that make up the usage of a range, as rows with the columns of a day, and
 *  - start: the start of the interval that the part belongs to; null if it is of a day before the range
 *  - counts: whether it is within the range. Parts outside it only tell which ids have been seen before.
 */

/** All parts within the range, from snapshots alone. */
function snapshotsIn({ from, to, by }: UsageRange): SQL {
  const end = sql`period_end - interval '1 millisecond'`
  return sql`
    select date_trunc(${by}, (${end}) at time zone 'UTC') as start, true as counts, ${snapshotAsDay}
    from telemetry_snapshots where period_end > ${timestamp(from)} and period_end <= ${timestamp(to)}`
}

/**
 * Parts within the range: whole days, snapshots of the days in which the range begins and ends, unless it does so at
 * midnight, and snapshots that are not in their day yet. Parts outside it: all earlier days, and the day in which the
 * range begins. Which snapshots are in their day and what that day contains is of one moment, in one statement.
 */
function daysAndSnapshotsIn({ from, to, by }: UsageRange): SQL {
  const firstDay = startOf(from, 'day')
  const firstWhole = firstDay < from ? new Date(firstDay.getTime() + DAY_MS) : firstDay
  const lastDay = startOf(to, 'day')
  const start = (day: SQL) =>
    sql`case when ${day} >= ${date(firstDay)} then date_trunc(${by}, ${day}::timestamp) end as start`
  return sql`
    select ${start(sql`day`)}, day >= ${date(firstWhole)} as counts, ${dayColumns}
    from telemetry_days where day < ${date(lastDay)}
    union all
    select ${start(dayOf(sql`period_end`))}, period_end > ${timestamp(from)} as counts, ${snapshotAsDay}
    from telemetry_snapshots where not in_days and period_end <= ${timestamp(to)}
    union all
    select ${start(dayOf(sql`period_end`))}, true as counts, ${snapshotAsDay}
    from telemetry_snapshots
    where in_days and (
      period_end > ${timestamp(from)} and period_end <= ${timestamp(firstWhole < to ? firstWhole : to)}
      or period_end > ${timestamp(lastDay > from ? lastDay : from)} and period_end <= ${timestamp(to)})`
}

const timestamp = (time: Date): SQL => sql`${time.toISOString()}::timestamptz`
const date = (time: Date): SQL => sql`${time.toISOString().slice(0, -'T00:00:00.000Z'.length)}::date`

/** The sketch of all ids in earlier intervals and in days before the range; null if it is not needed. */
function before(kind: Kind, isHourly: boolean): SQL {
  const [sketch, outside, name] = ['sketch', 'outside', 'before'].map((part) =>
    sql.identifier(`${kind}_${part}`),
  )
  if (isHourly) return sql`null::bit as ${name}`
  return sql`bit_or(coalesce(${sketch} | ${outside}, ${sketch}, ${outside})) over earlier as ${name}`
}

/** A Seen. */
function seenJson(kind: Kind): SQL {
  const [before, after] = ['before', 'after'].map((part) =>
    columnSums(sql`${sql.identifier(`${kind}_${part}`)}`),
  )
  return sql`json_build_object('before', ${before}, 'after', ${after})`
}

const NOTHING_MERGED: Merged = { column_sums: null, largest: 0, summed: 0, unsketched: 0 }
const NOTHING_SEEN: Seen = { before: null, after: null }
const NOTHING: UsageRow = {
  start_ms: null,
  snapshots: 0,
  allowed_requests: 0,
  denied_requests: 0,
  duplicate_requests: 0,
  missing_requests: 0,
  recovered_requests: 0,
  workspaces: NOTHING_MERGED,
  users: NOTHING_MERGED,
  seen_workspaces: NOTHING_SEEN,
  seen_users: NOTHING_SEEN,
}

function usageOfHours({
  start_ms: _,
  workspaces,
  users,
  seen_workspaces,
  seen_users,
  ...sums
}: UsageRow): Usage {
  return {
    ...sums,
    unique_workspaces: distinctCount(workspaces),
    unique_users: distinctCount(users),
    new_workspaces: null,
    new_users: null,
    new_workspaces_error: null,
    new_users_error: null,
  }
}

function usageOfDays(row: UsageRow): Usage {
  const workspaces = newIds(row.workspaces, row.seen_workspaces)
  const users = newIds(row.users, row.seen_users)
  return {
    ...usageOfHours(row),
    new_workspaces: workspaces.count,
    new_users: users.count,
    new_workspaces_error: workspaces.error,
    new_users_error: users.error,
  }
}
