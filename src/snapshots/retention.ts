// Retention: removes rows that are too old, in small steps.

import { sql } from 'drizzle-orm'
import type { Executor } from '../database/client.js'

const STEP_ROWS = 100
/** A replica that has been silent for this long no longer runs. */
const REPLICA_DAYS = 30

/**
 * Removes at most STEP_ROWS snapshots that ended more than `days` ago and are in their day; true if there may be more.
 */
export async function pruneSnapshots(db: Executor, days: number): Promise<boolean> {
  const rows = await db.execute(sql`
    delete from telemetry_snapshots where id in (
      select id from telemetry_snapshots where in_days and period_end < now() - ${days} * interval '1 day'
      order by period_end limit ${STEP_ROWS})
    returning 1`)
  return rows.length === STEP_ROWS
}

/**
 * Removes at most STEP_ROWS replicas that are long dead; true if there may be more. A replica with a usage row stays:
 * usage is never removed because of its age.
 */
export async function pruneReplicas(db: Executor): Promise<boolean> {
  const rows = await db.execute(sql`
    delete from boundary_usage_replicas where replica_id in (
      select replica_id from boundary_usage_replicas as replica
      where greatest(started_at, last_flush_at, seen_at) < now() - ${REPLICA_DAYS} * interval '1 day'
        and not exists (select from boundary_usage_stats as stats where stats.replica_id = replica.replica_id)
      limit ${STEP_ROWS})
    returning 1`)
  return rows.length === STEP_ROWS
}

/**
 * Forgets up to STEP_ROWS sessions silent for `days`; true if there may be more. A session whose holes were not reported
 * is kept. Rows are locked first, and those that a flush holds are skipped: a plain DELETE waits for the flush, and then
 * removes the row that it has updated.
 */
export async function pruneSessions(db: Executor, days: number): Promise<boolean> {
  const rows = await db.execute(sql`
    delete from boundary_usage_sessions where session_key in (
      select session_key from boundary_usage_sessions
      where not has_new_holes and last_seen_at < now() - ${days} * interval '1 day'
      order by last_seen_at limit ${STEP_ROWS}
      for update skip locked)
    returning 1`)
  return rows.length === STEP_ROWS
}
