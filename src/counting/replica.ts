// A replica's row in boundary_usage_replicas: its heartbeat, what it has reported, and its clean end.

import { eq, type SQL, sql } from 'drizzle-orm'
import type { Executor } from '../database/client.js'
import { boundaryUsageReplicas } from '../database/schema.js'
import { msOf, timeOf } from '../database/time.js'

/** The identity of this process. */
export interface Replica {
  readonly replicaId: string
  readonly name: string
  readonly version: string
}

/** What a heartbeat learns. */
export interface Heartbeat {
  /** The database's clock, in milliseconds since 1970. */
  now: number
  /** The number of live replicas. */
  live: number
  /** Whether none of them started before this one. */
  isOldest: boolean
}

/** Whether the row of boundary_usage_replicas named `replica` is that of a live replica. */
export const isLive: SQL = sql`(replica.stopped_at is null and replica.seen_at > clock_timestamp() - interval '1 minute')`

/**
 * A heartbeat; the first one registers the replica. `reportedUntil`: the database has all that it tracked before that
 * moment. Replaces what was reported before even if that was later, as when the database's clock has been set back.
 * Locks only the replica's own row.
 */
export async function beat(db: Executor, replica: Replica, reportedUntil?: number): Promise<Heartbeat> {
  const [row] = await db.execute<{ now: number; live: number; older: number }>(sql`
    with beat as (
      insert into boundary_usage_replicas as replica
        (replica_id, name, version, started_at, last_flush_seq, has_ledger, seen_at, reported_until)
      values (${replica.replicaId}::uuid, ${replica.name}, ${replica.version}, now(), 0, true, now(),
        ${timeOf(reportedUntil)})
      on conflict (replica_id) do update
        set seen_at = excluded.seen_at, has_ledger = true,
          reported_until = coalesce(excluded.reported_until, replica.reported_until)
      returning replica_id, started_at
    )
    select ${msOf(sql`clock_timestamp()`)} as now, 1 + count(replica.replica_id)::int as live,
      count(replica.replica_id) filter (where (replica.started_at, replica.replica_id) < (beat.started_at, beat.replica_id))::int
        as older
    from beat left join boundary_usage_replicas as replica
      on replica.replica_id <> beat.replica_id and ${isLive}
    group by beat.replica_id, beat.started_at`)
  if (!row) throw new Error('a heartbeat returned no row')
  return { now: row.now, live: row.live, isOldest: row.older === 0 }
}

/** Records that the process ends as asked, with nothing left to flush: no snapshot waits for it. */
export async function recordStop(db: Executor, { replicaId }: Replica): Promise<void> {
  await db
    .update(boundaryUsageReplicas)
    .set({ stopped_at: sql`now()` })
    .where(eq(boundaryUsageReplicas.replica_id, replicaId))
}
