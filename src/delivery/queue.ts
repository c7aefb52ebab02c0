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
  /** 1 for the first attempt, and for the first after a redelivery. */
  attempt: number
  /** The end of the lease, in microseconds since 1970. It tells this attempt from every other one of the snapshot. */
  lease: string
}

export type DeliveryResult = 'delivered' | 'failed' | 'dead'

const t = telemetrySnapshots
const leaseEnd = sql<string>`(extract(epoch from ${t.delivery_due_at}) * 1000000)::bigint::text`

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
    .update(t)
    .set({
      delivery_attempts: sql`${t.delivery_attempts} + 1`,
      delivery_due_at: sql`now() + ${LEASE_S} * interval '1 second'`,
    })
    .where(eq(t.id, due))
    .returning({ ...snapshotColumns, attempt: t.delivery_attempts, lease: leaseEnd })
  if (!row) return undefined
  const { attempt, lease, ...snapshot } = row
  return { snapshot: withDuration(snapshot), attempt, lease }
}

/**
 * Records the outcome of the claimed attempt. Nothing is recorded if the claim has been replaced: a later claim and a
 * redelivery both move the time at which the delivery is due.
 */
export async function recordDelivery(
  db: Executor,
  { snapshot, attempt, lease }: Claim,
  outcome: AttemptOutcome,
): Promise<DeliveryResult> {
  const isDead = outcome.result === 'gone' || (outcome.result === 'failed' && attempt >= MAX_ATTEMPTS)
  const result = isDead ? 'dead' : outcome.result === 'delivered' ? 'delivered' : 'failed'
  await db
    .update(t)
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
    .where(and(eq(t.id, snapshot.id), eq(t.delivery_state, 'pending'), eq(leaseEnd, lease)))
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
 * Makes the snapshot due at once, whatever the state of its delivery, with as many attempts as a new one. Nothing
 * happens if there is no snapshot with this id.
 */
export async function redeliver(db: Executor, id: string): Promise<void> {
  await db
    .update(t)
    .set({
      delivery_state: 'pending',
      delivery_due_at: sql`now()`,
      delivered_at: null,
      delivery_attempts: 0,
      delivery_error: null,
    })
    .where(eq(t.id, id))
}

/** Milliseconds until the next attempt: the backoff, or longer if the sink asked for that. */
function delayOf(attempt: number, { retryAfterMs = 0 }: { retryAfterMs?: number }): number {
  const requested = Math.min(retryAfterMs, LONGEST_RETRY_AFTER_MS)
  return Math.round(Math.max(backoff(attempt, FIRST_RETRY_MS, LONGEST_RETRY_MS), requested))
}
