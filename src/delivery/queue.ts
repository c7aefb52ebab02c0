// Delivery: carries recorded snapshots to the sink, at least once, by whichever replica comes first.

import { and, eq, sql } from 'drizzle-orm'
import { Webhook } from 'standardwebhooks'
import type { Executor } from '../database/client.js'
import { telemetrySnapshots } from '../database/schema.js'
import { type Snapshot, snapshotColumns, withDuration } from '../snapshots/snapshot.js'

const ATTEMPT_TIMEOUT_MS = 15_000
/** How long an attempt keeps others away, if the replica that makes it never says how it went. */
const LEASE_S = 60
const FIRST_RETRY_MS = 5_000
const LONGEST_RETRY_MS = 6 * 3_600_000
/** Three to five days of them; a redelivery begins as many again. */
const MAX_ATTEMPTS = 30
const LONGEST_RETRY_AFTER_MS = 24 * 3_600_000

export interface Sink {
  url: string
  /** As the Standard Webhooks specification writes it: whsec_ and base64. */
  secret: string
}

/** A delivery that this replica has taken on. */
export interface Claim {
  snapshot: Snapshot
  /** 1 for the first; also tells this attempt from a later one. */
  attempt: number
}

/** What came of an attempt. */
export type Answer =
  | { result: 'delivered' }
  /** `retryAfterMs`: what the sink asked for. */
  | { result: 'failed'; error: string; retryAfterMs?: number }
  /** The sink wants no more of it. */
  | { result: 'gone'; error: string }

export type DeliveryResult = 'delivered' | 'failed' | 'dead'

/** Takes on the delivery that has been due longest; undefined if none is. Others pass it by for LEASE_S. */
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

/** POSTs the snapshot, signed as the Standard Webhooks specification says; `signal` ends the attempt. */
export async function attemptDelivery(sink: Sink, { snapshot }: Claim, signal: AbortSignal): Promise<Answer> {
  const id = String(snapshot.id)
  const body = JSON.stringify(snapshot)
  const now = new Date()
  try {
    const response = await fetch(sink.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(now.getTime() / 1000)),
        'webhook-signature': new Webhook(sink.secret).sign(id, now, body),
      },
      body,
      redirect: 'manual',
      signal: AbortSignal.any([signal, AbortSignal.timeout(ATTEMPT_TIMEOUT_MS)]),
    })
    await response.body?.cancel()
    if (response.ok) return { result: 'delivered' }
    const error = `status ${response.status}`
    if (response.status === 410) return { result: 'gone', error }
    const retryAfterMs = parseRetryAfter(response.headers.get('retry-after'), now)
    return { result: 'failed', error, ...(retryAfterMs !== undefined && { retryAfterMs }) }
  } catch (error) {
    return { result: 'failed', error: describe(error) }
  }
}

/** Records what came of the attempt, unless a later one has been made meanwhile. */
export async function recordDelivery(
  db: Executor,
  { snapshot, attempt }: Claim,
  answer: Answer,
): Promise<DeliveryResult> {
  const isDead = answer.result === 'gone' || (answer.result === 'failed' && attempt % MAX_ATTEMPTS === 0)
  const result = isDead ? 'dead' : answer.result === 'delivered' ? 'delivered' : 'failed'
  await db
    .update(telemetrySnapshots)
    .set(
      answer.result === 'delivered'
        ? {
            delivery_state: 'delivered',
            delivered_at: sql`now()`,
            delivery_due_at: null,
            delivery_error: null,
          }
        : {
            delivery_error: answer.error,
            ...(isDead
              ? { delivery_state: 'dead', delivery_due_at: null }
              : { delivery_due_at: sql`now() + ${delayOf(attempt, answer)} * interval '1 millisecond'` }),
          },
    )
    .where(
      and(
        eq(telemetrySnapshots.id, String(snapshot.id)),
        eq(telemetrySnapshots.delivery_attempts, attempt),
        eq(telemetrySnapshots.delivery_state, 'pending'),
      ),
    )
  return result
}

/** How many wait, and for how long the next of them; null if none does. */
export async function pendingDeliveries(db: Executor): Promise<{ count: number; nextMs: number | null }> {
  const [row] = await db.execute<{ count: number; next_ms: number | null }>(sql`
    select count(*)::int as count,
      (extract(epoch from min(delivery_due_at) - now()) * 1000)::float8 as next_ms
    from telemetry_snapshots where delivery_state = 'pending'`)
  return { count: row?.count ?? 0, nextMs: row?.next_ms ?? null }
}

/**
 * Makes the snapshot due at once, whatever became of it before; false if there is none of that id. Attempts go on from
 * the next multiple of their limit: their number tells an attempt from a later one, so it may only grow.
 */
export async function redeliver(db: Executor, id: string): Promise<boolean> {
  const rows = await db
    .update(telemetrySnapshots)
    .set({
      delivery_state: 'pending',
      delivery_due_at: sql`now()`,
      delivered_at: null,
      delivery_attempts: sql`ceil(${telemetrySnapshots.delivery_attempts} / ${MAX_ATTEMPTS}::numeric) * ${MAX_ATTEMPTS}::int`,
    })
    .where(eq(telemetrySnapshots.id, id))
    .returning({ id: telemetrySnapshots.id })
  return rows.length > 0
}

function delayOf(attempt: number, answer: { retryAfterMs?: number }): number {
  if (answer.retryAfterMs !== undefined) return Math.min(answer.retryAfterMs, LONGEST_RETRY_AFTER_MS)
  const retries = (attempt - 1) % MAX_ATTEMPTS
  return Math.round(Math.min(FIRST_RETRY_MS * 2 ** retries, LONGEST_RETRY_MS) * (0.75 + Math.random() / 4))
}

/** Milliseconds, from either form that RFC 9110 knows: seconds, or a date. */
export function parseRetryAfter(value: string | null, now: Date): number | undefined {
  if (value === null) return undefined
  if (/^\d+$/.test(value)) return Number(value) * 1000
  const date = Date.parse(value)
  return Number.isNaN(date) ? undefined : Math.max(0, date - now.getTime())
}

/** Without the sink's address. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return 'no answer'
  if (error.name === 'TimeoutError') return `no answer within ${ATTEMPT_TIMEOUT_MS} ms`
  const { cause } = error
  return cause instanceof Error && 'code' in cause ? `no answer: ${String(cause.code)}` : 'no answer'
}
