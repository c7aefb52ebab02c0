// Usage as it was read before there were days: from every snapshot of the range. The figures to compare with, and the time.

import { sql } from 'drizzle-orm'
import { MAX_SUM } from '../../src/counting/ledger.js'
import type { Executor } from '../../src/database/client.js'
import { intervalsOf, type UsageRange } from '../../src/snapshots/calendar.js'
import { distinctCount, type MergedUsage, mergeColumns, mergedJson } from '../../src/snapshots/merge.js'

interface SlowRow extends MergedUsage, Record<string, unknown> {
  start_ms: number | null
  snapshots: number
}

export type SlowUsage = Omit<MergedUsage, 'workspaces' | 'users'> & {
  snapshots: number
  unique_workspaces: number
  unique_users: number
}

/** The total of the range and its intervals, with the fields of readUsage() but for new ids. */
export async function slowUsage(
  db: Executor,
  range: UsageRange,
): Promise<{ total: SlowUsage; buckets: (SlowUsage & { start: Date; end: Date })[] }> {
  const { from, to, by } = range
  const rows = await db.execute<SlowRow>(sql`
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
  const byStart = new Map(
    rows.map(({ start_ms, workspaces, users, ...sums }) => [
      start_ms,
      { ...sums, unique_workspaces: distinctCount(workspaces), unique_users: distinctCount(users) },
    ]),
  )
  const nothing: SlowUsage = {
    snapshots: 0,
    allowed_requests: 0,
    denied_requests: 0,
    duplicate_requests: 0,
    missing_requests: 0,
    recovered_requests: 0,
    unique_workspaces: 0,
    unique_users: 0,
  }
  return {
    total: byStart.get(null) ?? nothing,
    buckets: intervalsOf(range).map((interval) => ({
      ...interval,
      ...(byStart.get(interval.start.getTime()) ?? nothing),
    })),
  }
}
