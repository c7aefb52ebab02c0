// Missing logs: numbers that sessions skipped and that have not arrived by the time the sessions have gone silent.

import { type SQL, sql } from 'drizzle-orm'
import { hasOlderReplicas, MAX_HOLE_LENGTH, MAX_SUM, sizeOf } from '../counting/ledger.js'
import { isLive } from '../counting/replica.js'
import type { Executor } from '../database/client.js'

/** One snapshot reports at most this many sessions, in rows of this size in all; the next one reports the rest. */
const MAX_SESSIONS = 10_000
const MAX_BYTES = 16 * 2 ** 20

/**
 * Sessions are silent if their last log arrived before this moment: what live replicas hold of them has been flushed, as
 * all of them have reported up to a later moment. What a replica tracked before it started is nothing.
 */
const silentSince = (silenceMs: number) => sql`(
  select least(now(), min(coalesce(reported_until, started_at))) - ${silenceMs} * interval '1 millisecond'
  from boundary_usage_replicas as replica where ${isLive})`

/**
 * The silent sessions that have holes no snapshot has examined: `holes` are those, `missing` the part of them to report.
 * While a replica without a ledger may have counted them, that is none.
 *
 * OFFSET 0 has each session looked up by its key alone. By statistics from a time when no session had holes, the planner
 * would expect one, find all of them by their holes, and compare each with each, which takes half a minute.
 */
const examine = (silenceMs: number, lock: SQL) => sql`
  longest_silent as materialized (
    select session_key, sum(pg_column_size(received)) over (order by last_seen_at rows unbounded preceding) as bytes
    from boundary_usage_sessions
    where has_new_holes and last_seen_at < ${silentSince(silenceMs)}
    order by last_seen_at limit ${MAX_SESSIONS}
  ), silent as materialized (
    select session.* from longest_silent, lateral (
      select session_key, received, counted_from, told_to, has_new_holes, last_seen_at
      from boundary_usage_sessions where session_key = longest_silent.session_key
      offset 0 ${lock}
    ) as session
    where bytes <= ${MAX_BYTES} and has_new_holes and last_seen_at < ${silentSince(silenceMs)}
  ), examined as materialized (
    select session_key, upper(received) as end_of_numbers, holes, has_older,
      case when has_older then '{}' else (
        select coalesce(range_agg(hole), '{}')
        from unnest(holes - int8multirange(int8range(0, counted_from))) as hole
        where upper(hole) - lower(hole) <= ${sql.raw(String(MAX_HOLE_LENGTH))}
      ) end as missing
    from (select ${hasOlderReplicas} as has_older) as replicas, silent, lateral (
      select int8multirange(int8range(least(told_to, upper(received)), upper(received))) - received as holes
      offset 0) as new_holes
  )`

const total = sql`
  select least(coalesce(sum(${sizeOf(sql`missing`)}), 0), ${MAX_SUM})::float8 as missing from examined`

/** How many logs a snapshot would report as missing now. Reads only. */
export async function countMissing(db: Executor, silenceMs: number): Promise<number> {
  const [row] = await db.execute<{ missing: number }>(sql`with ${examine(silenceMs, sql``)} ${total}`)
  return row?.missing ?? 0
}

/**
 * Reports the logs that are missing, each once: returns how many, and records that they were told. A session that a flush
 * holds is not silent and is skipped, so this waits for no flush.
 */
export async function reportMissing(db: Executor, silenceMs: number): Promise<number> {
  const [row] = await db.execute<{ missing: number }>(sql`
    with ${examine(silenceMs, sql`for update of boundary_usage_sessions skip locked`)}, told as (
      update boundary_usage_sessions as session set
        told_to = end_of_numbers,
        untold = session.untold + (holes - missing),
        counted_from = case when has_older then end_of_numbers else session.counted_from end,
        has_new_holes = false
      from examined where session.session_key = examined.session_key
    )
    ${total}`)
  return row?.missing ?? 0
}
