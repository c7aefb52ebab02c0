// The sink: POSTs a snapshot to it, signed, and reads from the response whether it was delivered.

import { Webhook } from 'standardwebhooks'
import { TimeoutError, timeout } from '../async.js'
import type { Snapshot } from '../snapshots/snapshot.js'

const ATTEMPT_TIMEOUT_MS = 15_000

export interface Sink {
  url: string
  /** In the form of the Standard Webhooks specification: whsec_ and base64. Each signs; a receiver accepts any. */
  secrets: string[]
}

/** The outcome of an attempt. */
export type AttemptOutcome =
  | { result: 'delivered' }
  /** `retryAfterMs`: the delay that the sink asked for. */
  | { result: 'failed'; error: string; retryAfterMs?: number }
  /** The sink refuses every further attempt. */
  | { result: 'gone'; error: string }

/**
 * POSTs the snapshot, signed according to the Standard Webhooks specification. An abort of `signal` or the timeout
 * fails the attempt.
 */
export async function attemptDelivery(
  sink: Sink,
  snapshot: Snapshot,
  signal: AbortSignal,
  timeoutMs = ATTEMPT_TIMEOUT_MS,
): Promise<AttemptOutcome> {
  try {
    return await timeout(timeoutMs, (signal) => post(sink, snapshot, signal), signal)
  } catch (error) {
    return { result: 'failed', error: describe(error) }
  }
}

async function post(sink: Sink, snapshot: Snapshot, signal: AbortSignal): Promise<AttemptOutcome> {
  const body = JSON.stringify(snapshot)
  const now = new Date()
  const response = await fetch(sink.url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      'webhook-id': snapshot.id,
      'webhook-timestamp': String(Math.floor(now.getTime() / 1000)),
      'webhook-signature': sink.secrets
        .map((secret) => new Webhook(secret).sign(snapshot.id, now, body))
        .join(' '),
    },
    body,
    redirect: 'manual',
    signal,
  })
  await response.body?.cancel()
  if (response.ok) return { result: 'delivered' }
  const error = `status ${response.status}`
  if (response.status === 410) return { result: 'gone', error }
  const retryAfterMs = parseRetryAfter(response.headers.get('retry-after'), new Date())
  return { result: 'failed', error, ...(retryAfterMs !== undefined && { retryAfterMs }) }
}

const DAY = '(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)'
const MONTH = '(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)'
const TIME = String.raw`\d{2}:\d{2}:\d{2}`
/** The three forms of a date in HTTP (RFC 9110, 5.6.7), the preferred one first. Date.parse() accepts many more. */
const HTTP_DATES = [
  String.raw`${DAY}, \d{2} ${MONTH} \d{4} ${TIME} GMT`,
  String.raw`(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, \d{2}-${MONTH}-\d{2} ${TIME} GMT`,
  String.raw`${DAY} ${MONTH} (?:\d{2}| \d) ${TIME} \d{4}`,
]
const HTTP_DATE = new RegExp(`^(?:${HTTP_DATES.join('|')})$`)

/** The delay in a Retry-After header (RFC 9110, 10.2.3), in milliseconds; undefined if it is absent or invalid. */
export function parseRetryAfter(value: string | null, now: Date): number | undefined {
  if (value === null) return undefined
  if (/^\d+$/.test(value)) return Number(value) * 1000
  if (!HTTP_DATE.test(value)) return undefined
  const date = Date.parse(value.endsWith('GMT') ? value : `${value} GMT`)
  return Number.isNaN(date) ? undefined : Math.max(0, date - now.getTime())
}

/** Describes the failure without the sink's address, which is a secret. */
function describe(error: unknown): string {
  if (error instanceof TimeoutError) return error.message
  if (!(error instanceof Error)) return 'no answer'
  const { cause } = error
  return cause instanceof Error && 'code' in cause ? `no answer: ${String(cause.code)}` : 'no answer'
}
