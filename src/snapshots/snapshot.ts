// The snapshot: sums the rows of all replicas, deletes them and records the sum, in one transaction.

import { randomUUID } from 'node:crypto'
import { desc, eq, type SQL, sql } from 'drizzle-orm'
import { pause } from '../async.js'
import { MAX_SUM } from '../counting/ledger.js'
import type { Db, Executor } from '../database/client.js'
import { locks } from '../database/locks.js'
import { boundaryUsageReplicas, boundaryUsageStats, telemetrySnapshots } from '../database/schema.js'
import { waitForReports } from '../reporting/late.js'
import { TIMING } from '../timing.js'
import { mergeIntoDays } from './days.js'
import { distinctCount, type MergedUsage, mergeColumns, mergedJson } from './merge.js'
import { countMissing, reportMissing } from './missing.js'

/** By how much a replica's idea of the database's clock may be ahead of it. */
const MAX_AHEAD_MS = 1_000

const t = telemetrySnapshots
/** The columns of a snapshot, without its sketches, which are large, and its delivery. */
export const snapshotColumns = {
  id: t.id,
  trigger: t.trigger,
  reported_by: t.reported_by,
  replicas: t.replicas,
  period_start: t.period_start,
  period_end: t.period_end,
  taken_at: t.taken_at,
  unique_workspaces: t.unique_workspaces,
  unique_users: t.unique_users,
  unique_workspaces_summed: t.unique_workspaces_summed,
  unique_users_summed: t.unique_users_summed,
  allowed_requests: t.allowed_requests,
  denied_requests: t.denied_requests,
  duplicate_requests: t.duplicate_requests,
  missing_requests: t.missing_requests,
  recovered_requests: t.recovered_requests,
  late_replicas: t.late_replicas,
}

type SnapshotRow = Pick<typeof telemetrySnapshots.$inferSelect, keyof typeof snapshotColumns>
export type Trigger = SnapshotRow['trigger']

/** A snapshot as the API shows it. */
export type Snapshot = SnapshotRow & { period_duration_ms: number }

/** What a snapshot of the current period would be. */
export type SnapshotPreview = Omit<Snapshot, 'id'> & { id: null }

/** The outcome of taking a snapshot. */
export type SnapshotOutcome =
  | { result: 'taken'; snapshot: Snapshot }
  /** Another snapshot is being taken. */
  | { result: 'busy' }
  /** A period that ends at the requested boundary or later is already recorded. */
  | { result: 'not_due' }
  /** The boundary is in the future: the database's clock has been set back, or is another one's after a failover. */
  | { result: 'early' }
  /** Another snapshot was taken since the end of the period was fixed: a later end is needed. */
  | { result: 'overtaken' }

export interface SnapshotRequest {
  trigger: Trigger
  /** The replica that takes the snapshot. */
  reportedBy: string
  /** Where the period ends, in milliseconds since 1970, as fixed before; otherwise when the lock is granted. */
  until?: number
  /** How long to wait for replicas that have not reported up to the end of the period, counted from that end. */
  graceMs?: number
  /** How long a session has been silent when its missing logs are reported. */
  silenceMs?: number
  /** Whether to deliver the snapshot to a sink. */
  deliver?: boolean
}

/**
 * Takes a snapshot, unless another one prevents it.
 *
 * The advisory lock is held until the commit, so one snapshot runs at a time and the period's start cannot change once
 * it is read: a replica that waits for the reports of the others holds it meanwhile, as a lease that ends with its
 * connection, or when its transaction has been idle for too long. DELETE locks the usage rows: a concurrent flush waits for the commit and then opens a new period. DELETE
 * in turn waits for a flush that has locked its row first, and deletes the row as that flush leaves it. The rows
 * summed are the rows deleted, in one statement, and the recorded snapshot commits together with the deletion.
 */
export async function takeSnapshot(db: Db, request: SnapshotRequest): Promise<SnapshotOutcome> {
  return db.transaction(async (tx) => {
    const [lock] = await tx.execute<{ granted: boolean }>(
      sql`select pg_try_advisory_xact_lock(${locks.snapshot})
        and pg_try_advisory_xact_lock_shared(${locks.snapshotBefore}) as granted`,
    )
    if (!lock?.granted) return { result: 'busy' }

    const { now, periodStart } = await readPeriod(tx)
    const until = request.until ?? now.getTime()
    const periodEnd = new Date(until)
    const aheadMs = until - now.getTime()
    if (request.trigger === 'schedule') {
      if (periodEnd <= periodStart) return { result: 'not_due' }
      if (aheadMs > MAX_AHEAD_MS) return { result: 'early' }
    } else if (periodEnd <= periodStart) {
      if (now > periodStart) return { result: 'overtaken' }
      // The database's clock has been set back, for example by a failover. Periods stay in order nevertheless.
      periodEnd.setTime(periodStart.getTime() + 1)
    }
    if (aheadMs > 0) await pause(Math.min(aheadMs, MAX_AHEAD_MS))
    const { late, now: takenAt } = await waitForReports(tx, until, aheadMs + (request.graceMs ?? 0))

    const id = randomUUID()
    const [merged] = await tx.execute<MergedRow & Record<string, unknown>>(sql`
      with taken as (
        delete from ${boundaryUsageStats} returning *
      ), merged as (
        ${mergeOf(sql`taken`)}
      ), recorded as (
        insert into telemetry_snapshots
          (id, trigger, reported_by, replicas, period_start, period_end, taken_at,
           unique_workspaces, unique_users, unique_workspaces_summed, unique_users_summed,
           allowed_requests, denied_requests, duplicate_requests, missing_requests, recovered_requests, late_replicas,
           workspaces_sketch, users_sketch, delivery_state, delivery_due_at)
        select ${id}::uuid, ${request.trigger}, ${request.reportedBy}::uuid, replicas,
          ${periodStart.toISOString()}::timestamptz, ${periodEnd.toISOString()}::timestamptz,
          ${takenAt.toISOString()}::timestamptz, 0, 0, workspaces_summed, users_summed,
          allowed_requests, denied_requests, duplicate_requests, missing_requests, recovered_requests,
          ${late}::int, workspaces_sketch, users_sketch,
          case when ${request.deliver === true} then 'pending' end,
          case when ${request.deliver === true} then now() end
        from merged
      )
      ${selectMerged}`)
    // The estimates are computed here, from a few numbers: the sketches stay in the database.
    const counts = countsOf(merged)
    const missing = await reportMissing(tx, request.silenceMs ?? TIMING.silenceMs)
    const [row] = await tx
      .update(telemetrySnapshots)
      .set({
        unique_workspaces: counts.unique_workspaces,
        unique_users: counts.unique_users,
        missing_requests: addMissing(counts.missing_requests, missing),
      })
      .where(eq(telemetrySnapshots.id, id))
      .returning(snapshotColumns)
    if (!row) throw new Error('the snapshot that was inserted is not there')
    await mergeIntoDays(tx, id)
    return { result: 'taken', snapshot: withDuration(row) }
  })
}

export interface PreviewRequest {
  reportedBy: string
  /** Where the period would end, in milliseconds since 1970; now by default. */
  until?: number
  /** The replicas that have not reported up to that moment. */
  late?: number
  silenceMs?: number
}

/** The current period, as a snapshot would record it now. Reads only, from one consistent state. */
export async function previewSnapshot(
  db: Db,
  { reportedBy, until, late = 0, silenceMs = TIMING.silenceMs }: PreviewRequest,
): Promise<SnapshotPreview> {
  return db.transaction(
    async (tx) => {
      const { now, periodStart } = await readPeriod(tx)
      const [merged] = await tx.execute<MergedRow & Record<string, unknown>>(
        sql`with merged as (${mergeOf(sql`${boundaryUsageStats}`)}) ${selectMerged}`,
      )
      const counts = countsOf(merged)
      const missing = await countMissing(tx, silenceMs)
      return withDuration({
        id: null,
        trigger: 'manual' as const,
        reported_by: reportedBy,
        period_start: periodStart,
        period_end: new Date(Math.max(until ?? now.getTime(), periodStart.getTime())),
        taken_at: now,
        ...counts,
        missing_requests: addMissing(counts.missing_requests, missing),
        late_replicas: late,
      })
    },
    { isolationLevel: 'repeatable read', accessMode: 'read only' },
  )
}

/** Adds the field that is derived from others. */
export function withDuration<R extends { period_start: Date; period_end: Date }>(
  row: R,
): R & { period_duration_ms: number } {
  return { ...row, period_duration_ms: row.period_end.getTime() - row.period_start.getTime() }
}

/**
 * The database's clock and the start of the current period: the end of the last snapshot, or the moment at which the
 * first replica registered. clock_timestamp() is the time after the lock was granted, not of the transaction's start.
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

interface MergedRow extends MergedUsage {
  replicas: number
}

/** Sums and merges usage rows. */
const mergeOf = (rows: SQL) => sql`
  select count(*)::int as replicas,
    coalesce(sum(allowed_requests), 0)::bigint as allowed_requests,
    coalesce(sum(denied_requests), 0)::bigint as denied_requests,
    coalesce(sum(duplicate_requests), 0)::bigint as duplicate_requests,
    least(coalesce(sum(missing_requests), 0), ${MAX_SUM})::bigint as missing_requests,
    coalesce(sum(recovered_requests), 0)::bigint as recovered_requests,
    ${mergeColumns('workspaces', sql`unique_workspaces_count`, sql`workspaces_sketch`)},
    ${mergeColumns('users', sql`unique_users_count`, sql`users_sketch`)}
  from ${rows}`

/** All columns of mergeOf() but the sketches, which stay in the database. */
const selectMerged = sql`
  select replicas, allowed_requests::float8, denied_requests::float8,
    duplicate_requests::float8, missing_requests::float8, recovered_requests::float8,
    ${mergedJson('workspaces')} as workspaces, ${mergedJson('users')} as users
  from merged`

function countsOf(merged: MergedRow | undefined) {
  if (!merged) throw new Error('an aggregate without GROUP BY returned no row')
  const { workspaces, users, ...sums } = merged
  return {
    ...sums,
    unique_workspaces: distinctCount(workspaces),
    unique_users: distinctCount(users),
    unique_workspaces_summed: workspaces.summed,
    unique_users_summed: users.summed,
  }
}

/** What closed holes and silent sessions are missing. */
function addMissing(closed: number, silent: number): number {
  return Math.min(closed + silent, Number.MAX_SAFE_INTEGER)
}
