// The statements that write a flush to the database exactly once.

import { eq, type SQL, sql } from 'drizzle-orm'
import type { Executor } from '../database/client.js'
import { boundaryUsageStats } from '../database/schema.js'
import { timeOf } from '../database/time.js'
import type { DistinctIds } from './distinct-ids.js'
import { ledgerOf, MAX_SUM } from './ledger.js'
import { beat, type Replica } from './replica.js'
import { SKETCH_BITS } from './sketch.js'
import type { Flush } from './tracker.js'

const SKETCH = sql.raw(String(SKETCH_BITS))

/** `duplicate`: an earlier attempt was applied and its response lost. */
export interface FlushOutcome {
  readonly result: 'applied' | 'duplicate'
  /** Whether the flush inserted the usage row, because a snapshot had deleted the previous one. */
  readonly newPeriod: boolean
  /** Logs that had been counted before; 0 if an earlier attempt counted them. */
  readonly duplicates: number
  /** How many runs the ledger has of a session, by its position in the flush, where they are many. */
  readonly storedRuns?: Readonly<Record<number, number>> | undefined
}

/**
 * Applies a flush, or finds that an earlier attempt was applied. Rejects if the outcome is unknown; the same flush
 * must then be attempted again. A flush without new ids takes the lean form. If that touches no row, because a
 * snapshot deleted it or an earlier attempt was applied, the full form follows. An empty flush only reports.
 */
export async function applyFlush(db: Executor, replica: Replica, flush: Flush): Promise<FlushOutcome> {
  if (flush.since === undefined) {
    await beat(db, replica, flush.reportedUntil)
    return { result: 'applied', newPeriod: false, duplicates: 0 }
  }
  const lean = flush.hasNewIds ? undefined : await applyLean(db, replica, flush)
  if (lean) return { result: 'applied', newPeriod: false, ...lean }

  const full = await applyFull(db, replica, flush)
  if (full)
    return {
      result: 'applied',
      newPeriod: full.firstFlushSeq === flush.flushSeq,
      duplicates: full.duplicates,
      storedRuns: full.storedRuns,
    }

  // Without a row, a snapshot has deleted it since, and the next flush opens a period by itself.
  const [stats] = await db
    .select({ firstFlushSeq: boundaryUsageStats.first_flush_seq })
    .from(boundaryUsageStats)
    .where(eq(boundaryUsageStats.replica_id, replica.replicaId))
  return { result: 'duplicate', newPeriod: stats?.firstFlushSeq === flush.flushSeq, duplicates: 0 }
}

/**
 * The common table expressions that both forms begin with: `held`, which locks the usage row before all else, and after
 * it `fence`, the replica's row in boundary_usage_replicas, which moves to this flush's number only from a lower one.
 * They end with `added`, what the flush adds to the usage row; it has a row only if the fence moved.
 *
 * Lock order: usage row, fence, sessions by key. A snapshot locks usage rows before sessions and waits for no session.
 * So no flush holds what another flush or a snapshot waits for while it waits for one of them itself. Two attempts of
 * one flush meet at the usage row or the fence: the second waits, then sees the first one's number and does nothing.
 */
function addedBy(replica: Replica, flush: Flush, fence: SQL): SQL {
  const { sessions, allowedRequests, deniedRequests } = flush
  const held = sql`held as materialized (
      select replica_id from boundary_usage_stats where replica_id = ${replica.replicaId} for update
    ), fence as (
      ${fence}
    )`
  if (sessions.size === 0)
    return sql`${held}, added as (
      select replica_id, ${allowedRequests}::bigint as allowed, ${deniedRequests}::bigint as denied,
        0::bigint as duplicates, 0::bigint as missing, 0::bigint as recovered, null::jsonb as stored_runs
      from fence
    )`
  const { allowed, denied, repeated } = sessions
  return sql`${held}, ${ledgerOf(sessions, flush.keyOf)}, added as (
      select replica_id, ${allowedRequests}::bigint + allowed as allowed, ${deniedRequests}::bigint + denied as denied,
        ${allowed + denied + repeated}::bigint - allowed - denied as duplicates, missing, recovered, stored_runs
      from fence, (
        select sum(added_allowed)::bigint as allowed, sum(added_denied)::bigint as denied,
          least(sum(added_missing), ${MAX_SUM})::bigint as missing, sum(added_recovered)::bigint as recovered,
          jsonb_object_agg(position_if_many, runs) filter (where position_if_many is not null) as stored_runs
        from ledger) as sums
    )`
}

/**
 * Writes counts and sketches in one statement. While a snapshot deletes the usage row, it waits for the commit and then
 * inserts the row, which opens the new period. Therefore the sketches contain the flush's ids only: the new period must
 * set again the bits of the previous one.
 */
async function applyFull(
  db: Executor,
  replica: Replica,
  flush: Flush,
): Promise<({ firstFlushSeq: number } & Added) | undefined> {
  const reportedUntil = timeOf(flush.reportedUntil)
  const sketch = (ids: DistinctIds) => sql`${ids.toSketch().toBitString()}::varbit::bit(${SKETCH})`
  const fence = sql`
      insert into boundary_usage_replicas as replica
        (replica_id, name, version, started_at, last_flush_seq, last_flush_at, reported_until, has_ledger)
      select ${replica.replicaId}::uuid, ${replica.name}, ${replica.version}, now(), ${flush.flushSeq}::bigint, now(),
        ${reportedUntil}, true
      from (select count(*) from held) as waited
      on conflict (replica_id) do update
        set last_flush_seq = excluded.last_flush_seq, last_flush_at = excluded.last_flush_at,
          reported_until = coalesce(excluded.reported_until, replica.reported_until), has_ledger = true
        where replica.last_flush_seq < excluded.last_flush_seq
      returning replica_id`
  const [row] = await db.execute<{ first_flush_seq: string } & AddedRow>(sql`
    with ${addedBy(replica, flush, fence)}
    insert into boundary_usage_stats as stats
      (replica_id, unique_workspaces_count, unique_users_count, allowed_requests, denied_requests,
       duplicate_requests, missing_requests, recovered_requests,
       workspaces_sketch, users_sketch, first_flush_seq, window_start, updated_at)
    select replica_id, ${flush.workspaces.count}::bigint, ${flush.users.count}::bigint, allowed, denied,
      duplicates, missing, recovered,
      ${sketch(flush.workspaces)}, ${sketch(flush.users)}, ${flush.flushSeq}::bigint, now(), now()
    from added
    on conflict (replica_id) do update set
      unique_workspaces_count = ${flush.periodWorkspaces}::bigint,
      unique_users_count = ${flush.periodUsers}::bigint,
      allowed_requests = stats.allowed_requests + excluded.allowed_requests,
      denied_requests = stats.denied_requests + excluded.denied_requests,
      duplicate_requests = stats.duplicate_requests + excluded.duplicate_requests,
      missing_requests = least(stats.missing_requests + excluded.missing_requests, ${MAX_SUM}),
      recovered_requests = stats.recovered_requests + excluded.recovered_requests,
      workspaces_sketch = stats.workspaces_sketch | excluded.workspaces_sketch,
      users_sketch = stats.users_sketch | excluded.users_sketch,
      updated_at = excluded.updated_at
    returning first_flush_seq, (select duplicates from added) as duplicates,
      (select stored_runs from added) as stored_runs`)
  return row && { firstFlushSeq: Number(row.first_flush_seq), ...toAdded(row) }
}

/**
 * Adds to the counters of an existing row that contains all ids of the flush. Returns undefined if it changed nothing.
 * If a snapshot is deleting that row, the statement waits, finds no row and leaves the fence where it is; a later
 * snapshot waits for this statement.
 */
async function applyLean(db: Executor, replica: Replica, flush: Flush): Promise<Added | undefined> {
  const fence = sql`
      update boundary_usage_replicas as replica
      set last_flush_seq = ${flush.flushSeq}::bigint, last_flush_at = now(),
        reported_until = coalesce(${timeOf(flush.reportedUntil)}, replica.reported_until), has_ledger = true
      from held
      where replica.replica_id = held.replica_id and replica.last_flush_seq < ${flush.flushSeq}::bigint
      returning replica.replica_id`
  const [row] = await db.execute<AddedRow>(sql`
    with ${addedBy(replica, flush, fence)}
    update boundary_usage_stats as stats set
      allowed_requests = stats.allowed_requests + added.allowed,
      denied_requests = stats.denied_requests + added.denied,
      duplicate_requests = stats.duplicate_requests + added.duplicates,
      missing_requests = least(stats.missing_requests + added.missing, ${MAX_SUM}),
      recovered_requests = stats.recovered_requests + added.recovered,
      updated_at = now()
    from added
    where stats.replica_id = added.replica_id
    returning added.duplicates, added.stored_runs`)
  return row && toAdded(row)
}

type AddedRow = { duplicates: string; stored_runs: Record<number, number> | null }
type Added = Required<Pick<FlushOutcome, 'duplicates' | 'storedRuns'>>

function toAdded({ duplicates, stored_runs }: AddedRow): Added {
  return { duplicates: Number(duplicates), storedRuns: stored_runs ?? {} }
}
