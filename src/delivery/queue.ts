// The statements of delivery: claim what is due, record the outcome of an attempt, count what is pending, redeliver.

import { and, eq, sql } from 'drizzle-orm'
import { backoff } from '../async.js'
import type { Executor } from '../database/client.js'
import { telemetrySnapshots } from '../database/schema.js'
import { type Snapshot, snapshotColumns, withDuration } from '../snapshots/snapshot.js'
import type { AttemptOutcome } from './sink.js'

/** How long a claim keeps other replicas away, if the one that made it never records an outcome. */
const LEASE_S = 60
const FIRST_RETRY_MS = 5_000
const LONGEST_RETRY_MS = 6 * 3_600_000
/** They take two to five days; a redelivery begins as many again. */
const MAX_ATTEMPTS = 30
const LONGEST_RETRY_AFTER_MS = 24 * 3_600_000

/** A delivery that this replica attempts. */
export interface Claim {
  snapshot: Snapshot
  /** 1 for the first; also tells this attempt from a later one. */
  attempt: number
}

export type DeliveryResult = 'delivered' | 'failed' | 'dead'

/**
 * Claims the delivery that has been due longest; undefined if none is. Until the lease ends, others find it not due.
 * SKIP LOCKED: replicas that claim at the same moment each get another one, or none.
 */
export async function claimDelivery(db: Executor): Promise<Claim | undefined> {
  const due = sql`(
    select id from telemetry_snapshots
    where delivery_state = 'pending' and delivery_due_at <= now()
    order by delivery_due_at limit 1 for update skip locked)`
  const [row] = await db
    .update(telemetrySnapshots)
    .set({
      delivery_attempts: sql`${telemetrySnapshots.delivery_attempts} + 1`,
      delivery_due_at: sql`now() + ${LEASE_S} * interval '1 second'`,
    })
    .where(eq(telemetrySnapshots.id, due))
    .returning({ ...snapshotColumns, attempt: telemetrySnapshots.delivery_attempts })
  if (!row) return undefined
  const { attempt, ...snapshot } = row
  return { snapshot: withDuration(snapshot), attempt }
}

/** Records the outcome of the claimed attempt, unless a later attempt or a redelivery has replaced it. */
export async function recordDelivery(
  db: Executor,
  { snapshot, attempt }: Claim,
  outcome: AttemptOutcome,
): Promise<DeliveryResult> {
  const isDead = outcome.result === 'gone' || (outcome.result === 'failed' && attempt % MAX_ATTEMPTS === 0)
  const result = isDead ? 'dead' : outcome.result === 'delivered' ? 'delivered' : 'failed'
  await db
    .update(telemetrySnapshots)
    .set(
      outcome.result === 'delivered'
        ? {
            delivery_state: 'delivered',
            delivered_at: sql`now()`,
            delivery_due_at: null,
            delivery_error: null,
          }
        : {
            delivery_error: outcome.error,
            ...(isDead
              ? { delivery_state: 'dead', delivery_due_at: null }
              : { delivery_due_at: sql`now() + ${delayOf(attempt, outcome)} * interval '1 millisecond'` }),
          },
    )
    .where(
      and(
        eq(telemetrySnapshots.id, snapshot.id),
        eq(telemetrySnapshots.delivery_attempts, attempt),
        eq(telemetrySnapshots.delivery_state, 'pending'),
      ),
    )
  return result
}

/** How many deliveries are pending, and the milliseconds until the next one is due; null if none is pending. */
export async function pendingDeliveries(db: Executor): Promise<{ count: number; nextMs: number | null }> {
  const [row] = await db.execute<{ count: number; next_ms: number | null }>(sql`
    select count(*)::int as count,
      (extract(epoch from min(delivery_due_at) - now()) * 1000)::float8 as next_ms
    from telemetry_snapshots where delivery_state = 'pending'`)
  return { count: row?.count ?? 0, nextMs: row?.next_ms ?? null }
}

/**
 * Makes the snapshot due at once, whatever the state of its delivery; nothing happens if there is none with that id.
 * Attempts continue from the next multiple of their limit: their number tells an attempt from a later one, so it may
 * only grow.
 */
export async function redeliver(db: Executor, id: string): Promise<void> {
  await db
    .update(telemetrySnapshots)
    .set({
      delivery_state: 'pending',
      delivery_due_at: sql`now()`,
      delivered_at: null,
      delivery_attempts: sql`ceil(${telemetrySnapshots.delivery_attempts} / ${MAX_ATTEMPTS}::numeric) * ${MAX_ATTEMPTS}::int`,
    })
    .where(eq(telemetrySnapshots.id, id))
}

/** Milliseconds until the attempt after a failed one. */
function delayOf(attempt: number, { retryAfterMs }: { retryAfterMs?: number }): number {
  if (retryAfterMs !== undefined) return Math.min(retryAfterMs, LONGEST_RETRY_AFTER_MS)
  return Math.round(backoff(((attempt - 1) % MAX_ATTEMPTS) + 1, FIRST_RETRY_MS, LONGEST_RETRY_MS))
}
