// Reads what was recorded: past snapshots, and the replicas that are known.

import { asc, desc, eq, getTableColumns, lt } from 'drizzle-orm'
import type { Executor } from '../database/client.js'
import { boundaryUsageReplicas, telemetrySnapshots } from '../database/schema.js'
import { type Snapshot, snapshotColumns, withDuration } from './snapshot.js'

export interface SnapshotPage {
  snapshots: Snapshot[]
  /** The cursor for the page after this one: the end of its last period, or null. */
  next: Date | null
}

/** Snapshots whose period ended before `before`, newest first, `limit` at the most. */
export async function listSnapshots(db: Executor, limit: number, before?: Date): Promise<SnapshotPage> {
  const rows = await db
    .select(snapshotColumns)
    .from(telemetrySnapshots)
    .where(before && lt(telemetrySnapshots.period_end, before))
    .orderBy(desc(telemetrySnapshots.period_end))
    .limit(limit + 1)
  const page = rows.slice(0, limit)
  return {
    snapshots: page.map(withDuration),
    next: rows.length > limit ? (page.at(-1)?.period_end ?? null) : null,
  }
}

/** The snapshot of that id, if it is recorded. */
export async function findSnapshot(db: Executor, id: string): Promise<Snapshot | undefined> {
  const [row] = await db.select(snapshotColumns).from(telemetrySnapshots).where(eq(telemetrySnapshots.id, id))
  return row && withDuration(row)
}

/** Every known replica, oldest first; `last_flush_at` is null until it has flushed. */
export async function listReplicas(db: Executor) {
  const { last_flush_seq: _, ...columns } = getTableColumns(boundaryUsageReplicas)
  return db
    .select(columns)
    .from(boundaryUsageReplicas)
    .orderBy(asc(boundaryUsageReplicas.started_at), asc(boundaryUsageReplicas.replica_id))
}
