// The statements that write a flush to the database exactly once.

import { eq, sql } from 'drizzle-orm'
import type { Executor } from '../database/client.js'
import { boundaryUsageReplicas, boundaryUsageStats } from '../database/schema.js'
import type { DistinctIds } from './distinct-ids.js'
import { SKETCH_BITS } from './sketch.js'
import type { Flush } from './tracker.js'

const SKETCH = sql.raw(String(SKETCH_BITS))

/** The identity of this process. */
export interface Replica {
  readonly replicaId: string
  readonly name: string
  readonly version: string
}

/** `duplicate`: an earlier attempt was applied and its response lost. */
export interface FlushOutcome {
  readonly result: 'applied' | 'duplicate'
  /** Whether the flush inserted the usage row, because a snapshot had deleted the previous one. */
  readonly newPeriod: boolean
}

/**
 * Registers the replica before its first flush. Idempotent; locks only the replica's own row.
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
 * Applies a flush, or finds that an earlier attempt was applied. Rejects if the outcome is unknown; the same flush
 * must then be attempted again. A flush without new ids takes the lean form. If that touches no row, because a
 * snapshot deleted it or an earlier attempt was applied, the full form follows.
 */
export async function applyFlush(db: Executor, replica: Replica, flush: Flush): Promise<FlushOutcome> {
  if (!flush.hasNewIds && (await applyLean(db, replica, flush)))
    return { result: 'applied', newPeriod: false }

  const applied = await applyFull(db, replica, flush)
  if (applied) return { result: 'applied', newPeriod: applied.firstFlushSeq === flush.flushSeq }

  // Without a row, a snapshot has deleted it since, and the next flush opens a period by itself.
  const [stats] = await db
    .select({ firstFlushSeq: boundaryUsageStats.first_flush_seq })
    .from(boundaryUsageStats)
    .where(eq(boundaryUsageStats.replica_id, replica.replicaId))
  return { result: 'duplicate', newPeriod: stats?.firstFlushSeq === flush.flushSeq }
}

/**
 * Writes counts and sketches in one statement. The fence is the replica's row in boundary_usage_replicas: it moves to
 * this flush's number only from a lower one, and the usage row changes only if the fence moved. Two attempts of one
 * flush meet at the fence's row lock: the second waits, then sees the first one's number and does nothing. While a
 * snapshot deletes the usage row, the upsert waits for its commit and then inserts, which opens the new period.
 * Therefore the sketches contain the flush's ids only: the new period must set again the bits of the previous one.
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
 * Adds to the counters of an existing row that contains all ids of the flush. Returns false if it changed nothing.
 *
 * The statement locks the usage row first. If a snapshot is deleting that row, the statement waits, finds no row and
 * leaves the fence where it is; a later snapshot waits for this statement. The counters change only if the fence
 * moved.
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
