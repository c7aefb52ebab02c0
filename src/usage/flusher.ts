// Runs the flushes of one replica: one at a time, shared by whoever waits, tried again until applied.

import { setTimeout as sleep } from 'node:timers/promises'
import type { FlushOutcome } from './flush.js'
import type { FlushBatch, Tracker } from './tracker.js'

export interface FlusherOptions {
  tracker: Tracker
  /** Writes one batch; rejects if its outcome is not known. */
  apply: (batch: FlushBatch) => Promise<FlushOutcome>
  /** Told of every try; `error` if its outcome is not known. */
  onTry?: (result: FlushOutcome['result'] | 'failed', seconds: number, error?: unknown) => void
}

const FIRST_RETRY_MS = 100
const LONGEST_DRAIN_RETRY_MS = 500

/**
 * At most one flush runs and at most one waits behind it; the one that waits carries all that is tracked until
 * it starts. So whoever calls flush() shares a round trip with all others who call it meanwhile.
 */
export class Flusher {
  #running: Promise<void> | undefined
  #waiting: Promise<void> | undefined
  readonly #options: FlusherOptions

  constructor(options: FlusherOptions) {
    this.#options = options
  }

  /** Resolves once everything tracked before the call is in the database; rejects if one try at that fails. */
  flush(): Promise<void> {
    if (this.#waiting) return this.#waiting
    if (!this.#running) return this.#start()
    this.#waiting = this.#running
      .catch(() => {}) // told to those who wait for that one
      .then(() => {
        this.#waiting = undefined
        return this.#start()
      })
    return this.#waiting
  }

  /** Flushes every `intervalMs` until aborted; after a failure sooner, with exponential backoff and jitter. */
  async run(intervalMs: number, signal: AbortSignal): Promise<void> {
    let failures = 0
    while (!signal.aborted) {
      try {
        await sleep(retryDelay(failures, intervalMs), undefined, { signal })
        await this.flush()
        failures = 0
      } catch {
        failures++ // reported by onTry; an abort ends the loop
      }
    }
  }

  /** Flushes all there is, trying again for `timeoutMs`; then rejects with the last error. */
  async drain(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    for (let failures = 1; ; failures++) {
      try {
        return await withTimeout(this.flush(), deadline - performance.now())
      } catch (error) {
        const wait = retryDelay(failures, LONGEST_DRAIN_RETRY_MS)
        if (performance.now() + wait >= deadline) throw error
        await sleep(wait)
      }
    }
  }

  #start(): Promise<void> {
    this.#running = this.#flushAll().finally(() => {
      this.#running = undefined
    })
    return this.#running
  }

  async #flushAll(): Promise<void> {
    const { tracker } = this.#options
    // An unsettled batch goes first, as it was; what came since is in the one after it.
    if (tracker.unsettled) await this.#applyNext()
    await this.#applyNext()
  }

  async #applyNext(): Promise<void> {
    const { tracker, apply, onTry } = this.#options
    const batch = tracker.nextBatch()
    if (!batch) return
    const start = performance.now()
    const seconds = () => (performance.now() - start) / 1000
    try {
      const { result, newPeriod } = await apply(batch)
      tracker.settle(batch, newPeriod)
      onTry?.(result, seconds())
    } catch (error) {
      onTry?.('failed', seconds(), error)
      throw error
    }
  }
}

/** Delay before the next try, in milliseconds: the interval itself, or less after failures. */
function retryDelay(failures: number, intervalMs: number): number {
  if (failures === 0) return intervalMs
  return Math.min(intervalMs, FIRST_RETRY_MS * 2 ** (failures - 1)) * (0.5 + Math.random() / 2)
}

async function withTimeout<T>(promise: Promise<T>, ms: number): Promise<T> {
  const controller = new AbortController()
  const timeout = sleep(Math.max(0, ms), undefined, { signal: controller.signal }).then(() => {
    throw new Error(`not done within ${Math.round(ms)} ms`)
  })
  try {
    return await Promise.race([promise, timeout])
  } finally {
    controller.abort()
    timeout.catch(() => {}) // aborted: nobody waits any more
  }
}
