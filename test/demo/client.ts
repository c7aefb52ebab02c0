// Sends batches as a good client does: again after 429 and 503, at the time that the response names, and never twice.

import { setTimeout as sleep } from 'node:timers/promises'

export interface Counts {
  allowed: number
  denied: number
  skipped: number
}

/** The batch cannot be sent, or nobody knows what became of it; the message says what to do. */
export class SendError extends Error {}

export interface Target {
  /** Of the service, without a path. */
  url: string
  headers?: Record<string, string>
  /** Called for every response that asks for a retry, with the code of its error. */
  onRefused?: (code: string) => void
}

const TIMEOUT_MS = 30_000

/** Sends until it is accepted; undefined if `signal` ended the waiting, and then it was not counted. */
export async function sendBatch(
  { url, headers, onRefused }: Target,
  batch: object,
  signal: AbortSignal,
): Promise<Counts | undefined> {
  const body = JSON.stringify(batch)
  while (!signal.aborted) {
    // Not ended by the signal: a request under way may have been counted.
    const response = await fetch(`${url}/boundary/logs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body,
      signal: AbortSignal.timeout(TIMEOUT_MS),
    }).catch((error: unknown) => {
      throw new SendError(`no answer from ${url} (${reasonOf(error)}): is the service there?`)
    })
    const text = await response.text()
    if (response.status === 202) return JSON.parse(text) as Counts
    if (response.status !== 429 && response.status !== 503)
      throw new SendError(explain(response.status, text))
    onRefused?.(memberOf(text, 'code') ?? String(response.status))
    const seconds = Number(response.headers.get('retry-after') ?? 1)
    await sleep(seconds * 1000 * (1 + Math.random() / 10), undefined, { signal }).catch(() => {}) // it is over
  }
  return undefined
}

function explain(status: number, text: string): string {
  const what = `answered ${status}: ${memberOf(text, 'message') ?? 'this is no boundary-usage'}`
  return status === 401 ? `${what}; set AGENT_TOKEN to one of the service's AGENT_TOKENS` : what
}

/** A member of an error of this service; undefined if the response is another one's. */
function memberOf(text: string, name: 'code' | 'message'): string | undefined {
  try {
    const error: unknown = JSON.parse(text)
    if (typeof error !== 'object' || error === null || !(name in error)) return undefined
    return String((error as Record<typeof name, unknown>)[name])
  } catch {
    return undefined
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause instanceof Error && 'code' in error.cause ? String(error.cause.code) : error.message
}
