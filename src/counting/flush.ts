// The flush: the statements that carry a tracker's flush into the database exactly once.

import { eq, sql } from 'drizzle-orm'
import type { Executor } from '../database/client.js'
import { boundaryUsageReplicas, boundaryUsageStats } from '../database/schema.js'
import type { DistinctIds } from './distinct-ids.js'
import { SKETCH_BITS } from './sketch.js'
import type { Flush } from './tracker.js'

const SKETCH = sql.raw(String(SKETCH_BITS))

/** This process, as other replicas and people see it. */
export interface Replica {
  readonly replicaId: string
  readonly name: string
  readonly version: string
}

/** `duplicate`: an earlier try had been applied and its answer was lost. */
export interface FlushOutcome {
  readonly result: 'applied' | 'duplicate'
  /** The flush was the first of a period: a snapshot had taken the replica's row. */
  readonly newPeriod: boolean
}

/**
 * Makes the replica known before its first flush.
 * Takes no lock but its own row's; doing it twice changes nothing.
 */
export async function registerReplica(db: Executor, replica: Replica): Promise<void> {
  await db
    .insert(boundaryUsageReplicas)
    .values({
      replica_id: replica.replicaId,
      name: replica.name,
      version: replica.version,
      started_at: sql`now()`,
      last_flush_seq: 0,
    })
    .onConflictDoNothing()
}

/**
 * Applies a flush, or finds that an earlier try of it was applied. Rejects if the outcome is not known; then the
 * same flush is to be tried again. A flush without new ids takes the lean form, and the full one only if that
 * finds no row to add to: a snapshot has taken it, or an earlier try was applied.
 */
export async function applyFlush(db: Executor, replica: Replica, flush: Flush): Promise<FlushOutcome> {
  if (!flush.hasNewIds && (await applyLean(db, replica, flush)))
    return { result: 'applied', newPeriod: false }

  const applied = await applyFull(db, replica, flush)
  if (applied) return { result: 'applied', newPeriod: applied.firstFlushSeq === flush.flushSeq }

  // The row may be gone by now: a snapshot took it, and the next flush will open a period by itself.
  const [stats] = await db
    .select({ firstFlushSeq: boundaryUsageStats.first_flush_seq })
    .from(boundaryUsageStats)
    .where(eq(boundaryUsageStats.replica_id, replica.replicaId))
  return { result: 'duplicate', newPeriod: stats?.firstFlushSeq === flush.flushSeq }
}

/**
 * Carries counts and sketches.
 *
 * One statement. The fence is the replica's row in boundary_usage_replicas: it moves to this flush's number
 * only from a lower one, and what is added to the usage row hangs on its having moved. Two tries of one flush
 * meet at the fence's row lock: the second waits, then sees the first one's number and does nothing. A
 * snapshot that is deleting the usage row holds that row's lock: the upsert waits for its commit and then
 * inserts, which opens the new period. So the sketches are those of the flush: bits that the last period had
 * seen must be set again.
 */
async function applyFull(
  db: Executor,
  replica: Replica,
  flush: Flush,
): Promise<{ firstFlushSeq: number } | undefined> {
  const sketch = (ids: DistinctIds) => sql`${ids.toSketch().toBitString()}::varbit::bit(${SKETCH})`
  const [row] = await db.execute<{ first_flush_seq: string }>(sql`
    with fence as (
      insert into boundary_usage_replicas as replica
        (replica_id, name, version, started_at, last_flush_seq, last_flush_at)
      values
        (${replica.replicaId}, ${replica.name}, ${replica.version}, now(), ${flush.flushSeq}, now())
      on conflict (replica_id) do update
        set last_flush_seq = excluded.last_flush_seq, last_flush_at = excluded.last_flush_at
        where replica.last_flush_seq < excluded.last_flush_seq
      returning replica_id
    )
    insert into boundary_usage_stats as stats
      (replica_id, unique_workspaces_count, unique_users_count, allowed_requests, denied_requests,
       workspaces_sketch, users_sketch, first_flush_seq, window_start, updated_at)
    select replica_id, ${flush.workspaces.count}::bigint, ${flush.users.count}::bigint,
      ${flush.allowedRequests}::bigint, ${flush.deniedRequests}::bigint,
      ${sketch(flush.workspaces)}, ${sketch(flush.users)}, ${flush.flushSeq}::bigint, now(), now()
    from fence
    on conflict (replica_id) do update set
      unique_workspaces_count = ${flush.periodWorkspaces}::bigint,
      unique_users_count = ${flush.periodUsers}::bigint,
      allowed_requests = stats.allowed_requests + excluded.allowed_requests,
      denied_requests = stats.denied_requests + excluded.denied_requests,
      workspaces_sketch = stats.workspaces_sketch | excluded.workspaces_sketch,
      users_sketch = stats.users_sketch | excluded.users_sketch,
      updated_at = excluded.updated_at
    returning first_flush_seq`)
  return row && { firstFlushSeq: Number(row.first_flush_seq) }
}

/**
 * Adds to the counters of a row that is there, which holds all ids of the flush. False if it did nothing.
 *
 * One statement. The usage row is locked first: a snapshot that is deleting it is waited for, and then there is
 * no row and the fence stays where it is; one that comes later waits for this. Only then does the fence move,
 * and only if it does are the counters added to.
 */
async function applyLean(db: Executor, replica: Replica, flush: Flush): Promise<boolean> {
  const [row] = await db.execute(sql`
    with held as (
      select replica_id from boundary_usage_stats where replica_id = ${replica.replicaId} for update
    ), fence as (
      update boundary_usage_replicas as replica
      set last_flush_seq = ${flush.flushSeq}::bigint, last_flush_at = now()
      from held
      where replica.replica_id = held.replica_id and replica.last_flush_seq < ${flush.flushSeq}::bigint
      returning replica.replica_id
    )
    update boundary_usage_stats as stats set
      allowed_requests = stats.allowed_requests + ${flush.allowedRequests}::bigint,
      denied_requests = stats.denied_requests + ${flush.deniedRequests}::bigint,
      updated_at = now()
    from fence
    where stats.replica_id = fence.replica_id
    returning stats.replica_id`)
  return row !== undefined
}
