// Runs the flushes of one replica: one at a time, shared by whoever waits, tried again until applied.

import { setTimeout as sleep } from 'node:timers/promises'
import type { FlushOutcome } from './flush.js'
import type { Flush, Tracker } from './tracker.js'

/** What came of one; `failed` if that is not known. */
export type FlushAttempt = FlushOutcome | { result: 'failed'; error: unknown }

export interface FlusherOptions {
  tracker: Tracker
  /** Writes one flush; rejects if its outcome is not known. */
  apply: (flush: Flush) => Promise<FlushOutcome>
  /** Told of every try. */
  onAttempt?: (outcome: FlushAttempt, seconds: number) => void
}

const FIRST_RETRY_MS = 100
const LONGEST_DRAIN_RETRY_MS = 500

/** What was tracked has not been committed in time: it may be later. */
export class CommitTimeoutError extends Error {
  override name = 'CommitTimeoutError'
}

/** Those who wait for one flush. */
interface Commit {
  promise: Promise<void>
  resolve: () => void
}

/**
 * At most one flush runs and at most one waits behind it; the one that waits carries all that is tracked until
 * it starts. So whoever calls flush() shares a round trip with all others who call it meanwhile.
 *
 * Whoever calls commit() waits for a flush, not for a try: the loop flushes as long as somebody waits, and backs
 * off after failures for all of them together.
 */
export class Flusher {
  #running: Promise<void> | undefined
  #waiting: Promise<void> | undefined
  #failures = 0
  /** By the number of the flush; at most one frozen and one pending. */
  readonly #commits = new Map<number, Commit>()
  #wake: (() => void) | undefined
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

  /**
   * Resolves once what is tracked now is committed, sharing a flush with all who wait for the same flush. Rejects
   * with CommitTimeoutError after `timeoutMs`; it may be committed later all the same. Needs run() to be under way.
   */
  commit(timeoutMs: number): Promise<void> {
    const seq = this.#options.tracker.pendingSeq
    const known = this.#commits.get(seq)
    if (known) return known.promise
    const { promise, resolve, reject } = withResolvers()
    const timer = setTimeout(() => {
      this.#commits.delete(seq)
      reject(new CommitTimeoutError(`not committed within ${timeoutMs} ms`))
    }, timeoutMs)
    this.#commits.set(seq, {
      promise,
      resolve: () => {
        clearTimeout(timer)
        this.#commits.delete(seq)
        // Behind the statement of the next flush, which the driver sends by setImmediate() once all promises that
        // are settled now have had their turn: so the database works while the many who waited are answered.
        process.nextTick(() => setImmediate(resolve))
      },
    })
    this.#wake?.()
    return promise
  }

  /** Whether the last try failed. */
  get isFailing(): boolean {
    return this.#failures > 0
  }

  /**
   * Flushes every `intervalMs` until aborted; at once while somebody waits for a commit; after a failure by
   * exponential backoff with jitter, never slower than the interval.
   */
  async run(intervalMs: number, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      if (this.#failures > 0) await pause(retryDelay(this.#failures, intervalMs), signal)
      else if (this.#commits.size === 0) await this.#pauseUntilWanted(intervalMs, signal)
      if (!signal.aborted) await this.flush().catch(() => {}) // reported by onAttempt
    }
  }

  #pauseUntilWanted(intervalMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', done)
        this.#wake = undefined
        resolve()
      }
      const timer = setTimeout(done, intervalMs)
      signal.addEventListener('abort', done)
      this.#wake = done
    })
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
    // An unsettled flush goes first, as it was; what came since is in the one after it.
    if (tracker.unsettled) await this.#applyNext()
    await this.#applyNext()
  }

  async #applyNext(): Promise<void> {
    const { tracker, apply, onAttempt } = this.#options
    const flush = tracker.nextFlush()
    if (!flush) return
    const start = performance.now()
    const seconds = () => (performance.now() - start) / 1000
    let outcome: FlushOutcome
    try {
      outcome = await apply(flush)
    } catch (error) {
      this.#failures++
      onAttempt?.({ result: 'failed', error }, seconds())
      throw error
    }
    tracker.settle(flush, outcome.newPeriod)
    this.#failures = 0
    this.#commits.get(flush.flushSeq)?.resolve()
    onAttempt?.(outcome, seconds())
  }
}

/** Delay before the next try after so many failures, in milliseconds: exponential, with jitter, at most `longestMs`. */
export function retryDelay(failures: number, longestMs: number): number {
  return Math.min(longestMs, FIRST_RETRY_MS * 2 ** (failures - 1)) * (0.5 + Math.random() / 2)
}

/** Waits; an abort ends it early, and that is no error. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {})
}

function withResolvers() {
  let resolve: () => void = () => {}
  let reject: (error: Error) => void = () => {}
  const promise = new Promise<void>((res, rej) => {
    resolve = res
    reject = rej
  })
  return { promise, resolve, reject }
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
