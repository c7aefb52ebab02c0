// A replica's row in boundary_usage_replicas: its heartbeat, and its clean end.

import { eq, sql } from 'drizzle-orm'
import type { Executor } from '../database/client.js'
import { boundaryUsageReplicas } from '../database/schema.js'

/** The identity of this process. */
export interface Replica {
  readonly replicaId: string
  readonly name: string
  readonly version: string
}

/** A heartbeat; the first one registers the replica. Locks only the replica's own row. */
export async function beat(db: Executor, replica: Replica): Promise<void> {
  await db
    .insert(boundaryUsageReplicas)
    .values({
      replica_id: replica.replicaId,
      name: replica.name,
      version: replica.version,
      started_at: sql`now()`,
      last_flush_seq: 0,
      has_ledger: true,
      seen_at: sql`now()`,
    })
    .onConflictDoUpdate({
      target: boundaryUsageReplicas.replica_id,
      set: { seen_at: sql`excluded.seen_at`, has_ledger: true },
    })
}

/** Records that the process ends as asked, with nothing left to flush: no snapshot waits for it. */
export async function recordStop(db: Executor, { replicaId }: Replica): Promise<void> {
  await db
    .update(boundaryUsageReplicas)
    .set({ stopped_at: sql`now()` })
    .where(eq(boundaryUsageReplicas.replica_id, replicaId))
}
