// The figures of the status checks that are in the database, read by one statement, which takes no locks.

import { sql } from 'drizzle-orm'
import type { Executor } from '../database/client.js'

export interface Figures {
  replicas: {
    live: number
    /** Those that have ended or lost the database without a word, and that no replica of the same name has followed. */
    silent: number
    /** The names of some of them, the latest to go silent first. */
    silent_names: string[]
    /** Milliseconds since the last heartbeat of the latest of them; null if there is none. */
    silent_for_ms: number | null
  }
  deliveries: {
    pending: number
    /** Those of the pending ones that should have been delivered by now. */
    overdue: number
    dead: number
    /** Why the last attempt at the newest overdue or dead delivery failed. */
    error: string | null
  }
  /** Of the snapshots of the last hour, and in any case of the last snapshot; null if there is none. */
  snapshots: {
    /** Milliseconds since the first of their periods began. */
    since_ms: number
    requests: number
    missing: number
    recovered: number
    /** Live replicas that had not reported up to the end of their period; null if no version checked. */
    late_replicas: number | null
  } | null
}

/** A live replica has sent a heartbeat within this time. */
const HEARTBEAT_LIMIT = sql.raw(`interval '1 minute'`)
/** A replica that went silent longer ago than this no longer needs attention: whoever was to see it has seen it. */
const SILENT_LIMIT = sql.raw(`interval '1 day'`)
/** A delivery that fails for less long than this is only slow. */
const OVERDUE_LIMIT = sql.raw(`interval '15 minutes'`)
/** Deliveries of older snapshots than this are history. */
const DEAD_LIMIT = sql.raw(`interval '30 days'`)
const SNAPSHOTS_LIMIT = sql.raw(`interval '1 hour'`)
const MAX_NAMES = 3

/** Reads all figures in one round trip. */
export async function readFigures(db: Executor): Promise<Figures> {
  const [row] = await db.execute<Figures & Record<string, unknown>>(sql`
    with silent as (
      select name, seen_at from boundary_usage_replicas as replica
      where stopped_at is null and seen_at < now() - ${HEARTBEAT_LIMIT} and seen_at >= now() - ${SILENT_LIMIT}
        and not exists (
          select from boundary_usage_replicas as follower
          where follower.name = replica.name and follower.started_at > replica.seen_at)
    ), undelivered as (
      select delivery_state, period_end, delivery_error,
        delivery_state = 'dead'
          or delivery_due_at < now() - ${OVERDUE_LIMIT}
          or delivery_error is not null and taken_at < now() - ${OVERDUE_LIMIT} as is_overdue
      from telemetry_snapshots
      where delivery_state = 'pending' or delivery_state = 'dead' and period_end >= now() - ${DEAD_LIMIT}
    ), recent as (
      select period_start, allowed_requests, denied_requests, missing_requests, recovered_requests, late_replicas
      from telemetry_snapshots
      where period_end >= least(now() - ${SNAPSHOTS_LIMIT}, (select max(period_end) from telemetry_snapshots))
    )
    select
      (select json_build_object(
          'live', (select count(*) from boundary_usage_replicas
            where stopped_at is null and seen_at >= now() - ${HEARTBEAT_LIMIT}),
          'silent', count(*),
          'silent_names', array(select name from silent order by seen_at desc limit ${MAX_NAMES}),
          'silent_for_ms', extract(epoch from now() - max(seen_at)) * 1000)
        from silent) as replicas,
      (select json_build_object(
          'pending', count(*) filter (where delivery_state = 'pending'),
          'overdue', count(*) filter (where delivery_state = 'pending' and is_overdue),
          'dead', count(*) filter (where delivery_state = 'dead'),
          'error', (select delivery_error from undelivered where is_overdue order by period_end desc limit 1))
        from undelivered) as deliveries,
      (select json_build_object(
          'since_ms', extract(epoch from now() - min(period_start)) * 1000,
          'requests', sum(allowed_requests + denied_requests)::float8,
          'missing', sum(missing_requests)::float8,
          'recovered', sum(recovered_requests)::float8,
          'late_replicas', max(late_replicas))
        from recent having count(*) > 0) as snapshots`)
  if (!row) throw new Error('SELECT without FROM returned no row')
  return row
}
