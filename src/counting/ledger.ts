// The ledger's part of a flush: which numbers of its sessions count, and which of them were counted before.

import { type SQL, sql } from 'drizzle-orm'
import type { SessionHash, Sessions } from './sessions.js'
import { MANY_RUNS } from './stored-runs.js'

/** A row keeps so many of its highest holes; those below are closed. */
export const MAX_HOLES = 5_000
const HOLES = sql.raw(String(MAX_HOLES))
/** A hole of more numbers is a jump: it is never reported missing. */
export const MAX_HOLE_LENGTH = 1_000_000
/** Sums of missing logs stop here, so that every reader of JSON can read them. */
export const MAX_SUM = sql.raw(`${Number.MAX_SAFE_INTEGER}::bigint`)
/** A session whose first number is at least this was forgotten, or is older than the ledger. */
const FORGOTTEN_FROM = 1_000
/** PostgreSQL stores a multirange in so many bytes for each run, and some more. */
const RUN_BYTES = 21
/** A smaller multirange has no more runs than the row may keep. */
const MAX_HOLES_BYTES = RUN_BYTES * MAX_HOLES

/** How many numbers a multirange has. */
export const sizeOf = (numbers: SQL) =>
  sql`(select coalesce(sum(upper(run) - lower(run)), 0)::bigint from unnest(${numbers}) as run)`

/** Whether a replica of a version without a ledger has flushed within the last hour: it may have counted any hole. */
export const hasOlderReplicas = sql`exists (
  select from boundary_usage_replicas where not has_ledger and last_flush_at > now() - interval '1 hour')`

/**
 * `received` with its lowest holes closed, and how many of their numbers at or above `from` were missing. Yields one
 * row (received, missing). `received` must be a column.
 */
const closeHoles = (received: SQL, from: SQL) => sql`(
  select
    case when cut is null then ${received} else ${received} + int8multirange(int8range(0, cut)) end as received,
    case when cut is null then 0 else (
      select coalesce(sum(upper(hole) - lower(hole)), 0)::bigint
      from unnest(int8multirange(int8range(least(${from}, cut), cut)) - ${received}) as hole
      where upper(hole) - lower(hole) <= ${sql.raw(String(MAX_HOLE_LENGTH))}
    ) end as missing
  from (
    select case when pg_column_size(${received}) > ${sql.raw(String(MAX_HOLES_BYTES))} then (
      select upper(run)
      from (select count(*) as runs from (select unnest(${received})) as unnested) as counted,
        lateral (select unnest(${received}) as run offset greatest(runs - ${HOLES} - 1, 0) limit 1) as last_closed
      where runs > ${HOLES}
    ) end as cut
  ) as lowest_kept
  offset 0)`

/** Whether a row has holes at or above `from`, which may lie beyond its highest number. */
const hasHoles = (received: SQL, from: SQL) =>
  sql`not ${received} @> int8range(least(${from}, upper(${received})), upper(${received}))`

/**
 * The common table expressions that add a flush's sessions to the ledger: `ledger` has one row per session with what it
 * adds to the usage row. They do nothing unless `fence` has a row.
 *
 * Sessions are locked in the order of their keys, so two flushes never wait for each other. The comparison with
 * `received` is made in DO UPDATE, on the locked row: of two replicas that deliver a log at the same moment, the second
 * finds it there. A flush carries each session's counts next to its runs. It looks the runs up, by key, only if any
 * number was received before, or if they are so many that those of a new session would close holes. OFFSET 0 keeps the
 * planner from evaluating an expression once per mention.
 */
export function ledgerOf(sessions: Sessions, keyOf: SessionHash): SQL {
  const runsOf = (decision: number) =>
    sql`((select runs from arriving) -> session.session_key::text ->> ${sql.raw(String(decision))})::int8multirange`
  const firstFrom = sql`first.counted_from`
  const from = sql`merged.missing_from`
  return sql`arriving as materialized (
      select ${toJson(sessions, keyOf)}::jsonb as runs, ${hasOlderReplicas} as has_older
      from fence
    ), ledger as (
      insert into boundary_usage_sessions as session
        (session_key, received, counted_from, has_new_holes, added_allowed, added_denied, added_missing, last_seen_at)
      select first.session_key, kept.received, first.counted_from, ${hasHoles(sql`kept.received`, firstFrom)},
        first.allowed, first.denied, kept.missing, now()
      from (
        select key::uuid as session_key, received,
          case when has_older then upper(received)
            when lower(received) < ${sql.raw(String(FORGOTTEN_FROM))} then 0
            else lower(received) end as counted_from,
          (session_runs ->> 3)::bigint as allowed, (session_runs ->> 4)::bigint as denied
        from arriving, jsonb_each(arriving.runs) as sessions (key, session_runs), lateral (
          select (session_runs ->> 0)::int8multirange + (session_runs ->> 1)::int8multirange
            + (session_runs ->> 2)::int8multirange as received
          offset 0) as all_decisions
        offset 0
      ) as first, lateral ${closeHoles(sql`first.received`, firstFrom)} as kept
      order by first.session_key
      on conflict (session_key) do update set
        (received, counted_from, untold, has_new_holes, added_allowed, added_denied, added_missing,
         added_recovered, last_seen_at) = (
          select kept.received,
            case when has_older then upper(kept.received) else session.counted_from end,
            case when isempty(session.untold) then session.untold else session.untold - kept.received end,
            ${hasHoles(sql`kept.received`, from)},
            case when repeats then ${sizeOf(sql`${runsOf(0)} - before`)} else excluded.added_allowed end,
            case when repeats then ${sizeOf(sql`${runsOf(1)} - before`)} else excluded.added_denied end,
            kept.missing,
            case when lower(arrived) < session.told_to then ${sizeOf(sql`
              (arrived - before - session.untold) * int8multirange(int8range(0, session.told_to))`)}
            else 0 end,
            case when session.last_seen_at < now() - interval '1 minute' then now() else session.last_seen_at end
          from (
            select before, arrived, has_older, before && arrived as repeats, before + arrived as received,
              case when has_older then upper(before + arrived)
                else greatest(session.counted_from, session.told_to) end as missing_from
            from (
              select session.received as before,
                case when pg_column_size(excluded.received) > ${sql.raw(String(MAX_HOLES_BYTES))}
                  then ${runsOf(0)} + ${runsOf(1)} + ${runsOf(2)} else excluded.received end as arrived,
                (select has_older from arriving) as has_older
              offset 0
            ) as stored
            offset 0
          ) as merged, lateral ${closeHoles(sql`merged.received`, from)} as kept
        )
      returning added_allowed, added_denied, added_missing, added_recovered,
        case when pg_column_size(received) >= ${sql.raw(String(MANY_RUNS * RUN_BYTES))} then
          (select runs from arriving) -> session.session_key::text ->> 5
        end as position_if_many, pg_column_size(received) / ${sql.raw(String(RUN_BYTES))} as runs
    )`
}

/**
 * { session key: [allowed, denied, skipped, number of allowed, number of denied, position] }, runs as multiranges. The
 * position stands for the session in the response: to keep the keys until then would cost a tenth of a small batch's time.
 */
function toJson(sessions: Sessions, keyOf: SessionHash): string {
  const members: string[] = []
  for (const session of sessions) {
    const { allowed, denied, skipped } = session.toMultiranges()
    const key = keyOf(session.workspaceId, session.sessionId)
    const counts = `${session.allowed},${session.denied},${members.length}`
    members.push(`"${key}":["${allowed}","${denied}","${skipped}",${counts}]`)
  }
  return `{${members.join(',')}}`
}
