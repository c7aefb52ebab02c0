// The snapshot: sums the rows of all replicas, deletes them and records the sum, in one transaction.

import { randomUUID } from 'node:crypto'
import { desc, sql } from 'drizzle-orm'
import type { AnyPgColumn } from 'drizzle-orm/pg-core'
import type { Db, Executor } from '../database/client.js'
import { lockKeys } from '../database/locks.js'
import { boundaryUsageReplicas, boundaryUsageStats, telemetrySnapshots } from '../database/schema.js'

type SnapshotRow = typeof telemetrySnapshots.$inferSelect
export type Trigger = SnapshotRow['trigger']

/** A snapshot as the API shows it; `id` is null in a preview. */
export type Snapshot = Omit<SnapshotRow, 'id'> & { id: string | null; period_duration_ms: number }

/** What came of it; `now` is the database's clock. */
export type SnapshotOutcome =
  | { result: 'taken'; now: Date; snapshot: Snapshot }
  /** Another snapshot is being taken. */
  | { result: 'busy' }
  /** The period that is asked for has been recorded already. */
  | { result: 'not_due'; now: Date }

export interface SnapshotRequest {
  trigger: Trigger
  /** The replica that takes it. */
  reportedBy: string
  /** Where a scheduled period ends: the last multiple of this many milliseconds since 1970. */
  intervalMs?: number
}

/**
 * Takes a snapshot, or says why not.
 *
 * The advisory lock, held to the commit, lets one snapshot run at a time, so a period's start cannot change
 * once it is read. DELETE locks the usage rows: a flush that meets it waits for the commit and then opens a new
 * period. A flush that came first is waited for, and its result is what is deleted. The rows summed are the
 * rows deleted, in one statement, and the record commits with it or not at all.
 */
export async function takeSnapshot(db: Db, request: SnapshotRequest): Promise<SnapshotOutcome> {
  return db.transaction(async (tx) => {
    const [lock] = await tx.execute<{ granted: boolean }>(
      sql`select pg_try_advisory_xact_lock(${lockKeys.snapshot}) as granted`,
    )
    if (!lock?.granted) return { result: 'busy' }

    const { now, periodStart } = await readPeriod(tx)
    const periodEnd = request.trigger === 'schedule' ? boundaryBefore(now, request.intervalMs ?? 0) : now
    if (periodEnd <= periodStart) {
      if (request.trigger === 'schedule') return { result: 'not_due', now }
      // The database's clock went back, after a failover perhaps: periods keep their order all the same.
      periodEnd.setTime(periodStart.getTime() + 1)
    }

    const taken = tx.$with('taken').as(tx.delete(boundaryUsageStats).returning())
    const [sums] = await tx.with(taken).select(sumsOf(taken)).from(taken)
    if (!sums) throw new Error('an aggregate without GROUP BY returned no row')

    const [row] = await tx
      .insert(telemetrySnapshots)
      .values({
        id: randomUUID(),
        trigger: request.trigger,
        reported_by: request.reportedBy,
        period_start: periodStart,
        period_end: periodEnd,
        taken_at: now,
        ...sums,
      })
      .returning()
    if (!row) throw new Error('INSERT … RETURNING returned no row')
    return { result: 'taken', now, snapshot: withDuration(row) }
  })
}

/** The period in progress, as a snapshot would record it now. Reads only, and all of it at one moment. */
export async function previewSnapshot(db: Db, reportedBy: string): Promise<Snapshot> {
  return db.transaction(
    async (tx) => {
      const { now, periodStart } = await readPeriod(tx)
      const [sums] = await tx.select(sumsOf(boundaryUsageStats)).from(boundaryUsageStats)
      if (!sums) throw new Error('an aggregate without GROUP BY returned no row')
      return withDuration({
        id: null,
        trigger: 'manual' as const,
        reported_by: reportedBy,
        period_start: periodStart,
        period_end: now > periodStart ? now : periodStart,
        taken_at: now,
        ...sums,
      })
    },
    { isolationLevel: 'repeatable read', accessMode: 'read only' },
  )
}

/** Adds what is derived from the row. */
export function withDuration<R extends { period_start: Date; period_end: Date }>(
  row: R,
): R & { period_duration_ms: number } {
  return { ...row, period_duration_ms: row.period_end.getTime() - row.period_start.getTime() }
}

/** The last multiple of `intervalMs` since 1970 at or before `now`. */
export function boundaryBefore(now: Date, intervalMs: number): Date {
  return new Date(Math.floor(now.getTime() / intervalMs) * intervalMs)
}

/**
 * The database's clock, and where the period in progress began: at the end of the last snapshot, or when the
 * first replica came. The clock is read after the lock was got, not at the transaction's start.
 */
async function readPeriod(db: Executor): Promise<{ now: Date; periodStart: Date }> {
  const lastEnd = db
    .select({ period_end: telemetrySnapshots.period_end })
    .from(telemetrySnapshots)
    .orderBy(desc(telemetrySnapshots.period_end))
    .limit(1)
  const [row] = await db.execute<{ now_ms: number; start_ms: number }>(sql`
    select floor(extract(epoch from now) * 1000)::float8 as now_ms,
      floor(extract(epoch from coalesce(
        (${lastEnd}),
        least(
          (select min(${boundaryUsageReplicas.started_at}) from ${boundaryUsageReplicas}),
          (select min(${boundaryUsageStats.window_start}) from ${boundaryUsageStats})
        ),
        now)) * 1000)::float8 as start_ms
    from (select clock_timestamp() as now) as clock`)
  if (!row) throw new Error('SELECT without FROM rows returned no row')
  return { now: new Date(row.now_ms), periodStart: new Date(row.start_ms) }
}

type Summed = 'unique_workspaces_count' | 'unique_users_count' | 'allowed_requests' | 'denied_requests'

function sumsOf(rows: Record<Summed, AnyPgColumn>) {
  const sum = (column: AnyPgColumn) => sql`coalesce(sum(${column}), 0)::bigint`.mapWith(Number)
  return {
    replicas: sql`count(*)::int`.mapWith(Number),
    unique_workspaces: sum(rows.unique_workspaces_count),
    unique_users: sum(rows.unique_users_count),
    unique_workspaces_summed: sum(rows.unique_workspaces_count),
    unique_users_summed: sum(rows.unique_users_count),
    allowed_requests: sum(rows.allowed_requests),
    denied_requests: sum(rows.denied_requests),
  }
}
