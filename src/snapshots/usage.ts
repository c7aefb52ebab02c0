// Usage over a range of time, per interval of the calendar: from days, and from snapshots where those do not suffice.

import { type SQL, sql } from 'drizzle-orm'
import { estimate } from '../counting/sketch.js'
import type { Executor } from '../database/client.js'
import { DAY_MS, type Interval, intervalsOf, startOf, type UsageRange } from './calendar.js'
import { dayColumns, dayOf, mergeDays, snapshotAsDay } from './days.js'
import { columnSums, distinctCount, type Kind, type MergedUsage, mergedJson, newIds } from './merge.js'

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

interface Row extends MergedUsage {
  /** The interval's start in milliseconds since 1970; null in the total and for days before the range. */
  start_ms: number | null
  /** Whether it is usage within the range. */
  counts: boolean
  snapshots: number
  /** The column sums of all sketches up to this row; null if there are none, and by hour. */
  seen_workspaces: number[] | null
  seen_users: number[] | null
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
  const seen = (kind: Kind, merged: SQL) =>
    sql`${isHourly ? sql`null::bit` : merged} as ${sql.identifier(`${kind}_seen`)}`
  const rows = await db.execute<Row & Record<string, unknown>>(sql`
    with part as (
      ${isHourly ? snapshotsIn(range) : daysAndSnapshotsIn(range)}
    ), merged as materialized (
      select start, counts, ${mergeDays} from part group by start, counts
    ), before as (
      select workspaces_sketch, users_sketch from merged where start is null and not counts
    ), usage as (
      select start, counts, ${dayColumns},
        ${seen('workspaces', sql`bit_or(workspaces_sketch) over so_far`)},
        ${seen('users', sql`bit_or(users_sketch) over so_far`)}
      from merged window so_far as (order by start nulls first, counts desc rows unbounded preceding)
      union all
      select null, true, ${dayColumns},
        ${seen('workspaces', sql`(select workspaces_sketch from before) | workspaces_sketch`)},
        ${seen('users', sql`(select users_sketch from before) | users_sketch`)}
      from (select ${mergeDays} from merged where counts) as total
    )
    select (extract(epoch from start) * 1000)::float8 as start_ms, counts, snapshots::float8,
      allowed_requests::float8, denied_requests::float8,
      duplicate_requests::float8, missing_requests::float8, recovered_requests::float8,
      ${mergedJson('workspaces')} as workspaces, ${mergedJson('users')} as users,
      to_json(${columnSums(sql`workspaces_seen`)}) as seen_workspaces,
      to_json(${columnSums(sql`users_seen`)}) as seen_users
    from usage`)
  const { total, byStart } = isHourly ? withoutNewIds(rows) : withNewIds(rows)
  const none = isHourly ? NO_USAGE : NO_USAGE_OF_DAYS
  return {
    ...range,
    total: total ?? none,
    // Spreading two objects into one takes V8 forty times as long: a thousand intervals took 25 ms.
    buckets: intervalsOf(range).map((interval) =>
      Object.assign(interval, byStart.get(interval.start.getTime()) ?? none),
    ),
  }
}

/*
 * The parts that make up the usage of a range, as rows with the columns of a day, and
 *  - start: the start of the interval that the part belongs to; null if it is of a day before the range
 *  - counts: whether it is within the range. Parts outside it only tell which ids have been seen before.
 */

/** All parts within the range, from snapshots alone. */
function snapshotsIn({ from, to, by }: UsageRange): SQL {
  return sql`
    select date_trunc(${by}, (period_end - interval '1 millisecond') at time zone 'UTC') as start, true as counts, ${snapshotAsDay}
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

interface UsageRows {
  total: Usage | undefined
  byStart: Map<number | null, Usage>
}

function withoutNewIds(rows: Row[]): UsageRows {
  const byStart = new Map(rows.map((row) => [row.start_ms, { ...NO_USAGE, ...countsOf(row) }]))
  return { total: byStart.get(null), byStart }
}

/** What is new in a row is what it adds to the rows before it: usage outside the range comes after that within it. */
function withNewIds(rows: Row[]): UsageRows {
  const inOrder = rows
    .filter(({ start_ms, counts }) => start_ms !== null || !counts)
    .toSorted(
      (a, b) => (a.start_ms ?? -Infinity) - (b.start_ms ?? -Infinity) || Number(b.counts) - Number(a.counts),
    )
  const byStart = new Map<number | null, Usage>()
  let seen = NOTHING_SEEN
  for (const row of inOrder) {
    const now = seenAfter(row)
    if (row.counts) byStart.set(row.start_ms, usageOf(row, seen, now))
    seen = now
  }
  const total = rows.find(({ start_ms, counts }) => start_ms === null && counts)
  const before = rows.find(({ start_ms, counts }) => start_ms === null && !counts)
  return {
    total: total && usageOf(total, before ? seenAfter(before) : NOTHING_SEEN, seenAfter(total)),
    byStart,
  }
}

/** How many ids of each kind the sketches contain; null without any. */
interface Seen {
  workspaces: number | null
  users: number | null
}

const NOTHING_SEEN: Seen = { workspaces: null, users: null }

function seenAfter({ seen_workspaces, seen_users }: Row): Seen {
  return {
    workspaces: seen_workspaces && estimate(seen_workspaces),
    users: seen_users && estimate(seen_users),
  }
}

function usageOf(row: Row, before: Seen, after: Seen): Usage {
  const workspaces = newIds(row.workspaces, before.workspaces, after.workspaces)
  const users = newIds(row.users, before.users, after.users)
  return {
    ...countsOf(row),
    new_workspaces: workspaces.count,
    new_users: users.count,
    new_workspaces_error: workspaces.error,
    new_users_error: users.error,
  }
}

function countsOf(row: Row) {
  const { start_ms: _start, counts: _counts, seen_workspaces: _workspaces, seen_users: _users, ...rest } = row
  const { workspaces, users, ...sums } = rest
  return { ...sums, unique_workspaces: distinctCount(workspaces), unique_users: distinctCount(users) }
}

const NO_USAGE: Usage = {
  snapshots: 0,
  unique_workspaces: 0,
  unique_users: 0,
  new_workspaces: null,
  new_users: null,
  new_workspaces_error: null,
  new_users_error: null,
  allowed_requests: 0,
  denied_requests: 0,
  duplicate_requests: 0,
  missing_requests: 0,
  recovered_requests: 0,
}
const NO_USAGE_OF_DAYS: Usage = {
  ...NO_USAGE,
  new_workspaces: 0,
  new_users: 0,
  new_workspaces_error: 0,
  new_users_error: 0,
}
