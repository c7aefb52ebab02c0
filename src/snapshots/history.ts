// Reads what is recorded: snapshots and registered replicas.

import { desc, eq, lt, sql } from 'drizzle-orm'
import type { Executor } from '../database/client.js'
import { boundaryUsageReplicas, type DELIVERY_STATES, telemetrySnapshots } from '../database/schema.js'
import { type Snapshot, snapshotColumns, withDuration } from './snapshot.js'

/** The state of a snapshot's delivery to the sink. */
export interface SnapshotDelivery {
  state: (typeof DELIVERY_STATES)[number]
  attempts: number
  due_at: Date | null
  delivered_at: Date | null
  error: string | null
}

export type RecordedSnapshot = Snapshot & { delivery: SnapshotDelivery | null }

export interface SnapshotPage {
  snapshots: RecordedSnapshot[]
  /** The cursor for the next page: the end of this page's last period. Null on the last page. */
  next: Date | null
}

/** At most `limit` snapshots whose period ended before `before`, newest first. */
export async function listSnapshots(db: Executor, limit: number, before?: Date): Promise<SnapshotPage> {
  const rows = await db
    .select(recordedColumns)
    .from(telemetrySnapshots)
    .where(before && lt(telemetrySnapshots.period_end, before))
    .orderBy(desc(telemetrySnapshots.period_end))
    .limit(limit + 1)
  const page = rows.slice(0, limit)
  return {
    snapshots: page.map(recorded),
    next: rows.length > limit ? (page.at(-1)?.period_end ?? null) : null,
  }
}

/** The recorded snapshot with this id; undefined if there is none. */
export async function findSnapshot(db: Executor, id: string): Promise<RecordedSnapshot | undefined> {
  const [row] = await db.select(recordedColumns).from(telemetrySnapshots).where(eq(telemetrySnapshots.id, id))
  return row && recorded(row)
}

const recordedColumns = {
  ...snapshotColumns,
  state: telemetrySnapshots.delivery_state,
  attempts: telemetrySnapshots.delivery_attempts,
  due_at: telemetrySnapshots.delivery_due_at,
  delivered_at: telemetrySnapshots.delivered_at,
  error: telemetrySnapshots.delivery_error,
}

type Recorded = Omit<RecordedSnapshot, 'delivery' | 'period_duration_ms'> &
  Omit<SnapshotDelivery, 'state'> & { state: SnapshotDelivery['state'] | null }

function recorded({ state, attempts, due_at, delivered_at, error, ...snapshot }: Recorded): RecordedSnapshot {
  const delivery = state && { state, attempts, due_at, delivered_at, error }
  return { ...withDuration(snapshot), delivery }
}

export const MAX_REPLICAS = 10_000

/** `silent`: no heartbeat within a minute. `stopped`: ended as asked, with nothing left to flush. */
export const REPLICA_STATES = ['live', 'silent', 'stopped'] as const

const replicaState = sql<(typeof REPLICA_STATES)[number]>`case
  when ${boundaryUsageReplicas.stopped_at} is not null then 'stopped'
  when ${boundaryUsageReplicas.seen_at} > now() - interval '1 minute' then 'live'
  else 'silent' end`

/** Whether it has flushed usage of the current period. */
const isReporting = sql<boolean>`${boundaryUsageReplicas.replica_id} in (select replica_id from boundary_usage_stats)`

/** The registered replicas, oldest first: the newest MAX_REPLICAS of them. */
export async function listReplicas(db: Executor) {
  const { replica_id, name, version, started_at, last_flush_at, seen_at } = boundaryUsageReplicas
  const newestFirst = await db
    .select({
      replica_id,
      name,
      version,
      started_at,
      last_flush_at,
      seen_at,
      state: replicaState,
      reporting: isReporting,
    })
    .from(boundaryUsageReplicas)
    .orderBy(desc(boundaryUsageReplicas.started_at), desc(boundaryUsageReplicas.replica_id))
    .limit(MAX_REPLICAS)
  return newestFirst.reverse()
}
