// Runs one replica's flushes: one at a time, shared by all waiters, retried until applied.

import { backoff, pause, timeout, Waker } from '../async.js'
import type { FlushOutcome } from './flush.js'
import type { Flush, Tracker } from './tracker.js'

/** The outcome of one attempt; `failed` if it is unknown. */
export type FlushAttempt = FlushOutcome | { result: 'failed'; error: unknown }

export interface FlusherOptions {
  tracker: Tracker
  /** Writes one flush; rejects if its outcome is unknown. */
  apply: (flush: Flush) => Promise<FlushOutcome>
  /** Called after every attempt. */
  onAttempt?: (outcome: FlushAttempt, seconds: number) => void
}

const FIRST_RETRY_MS = 100
const LONGEST_DRAIN_RETRY_MS = 500

/** The flush was not committed in time; it may be committed later. */
export class CommitTimeoutError extends Error {
  override name = 'CommitTimeoutError'
}

/** The waiters for one flush. */
interface Commit {
  promise: Promise<void>
  resolve: () => void
}

/**
 * At most one flush runs and at most one waits behind it. The waiting one contains everything that is tracked until
 * it starts, so all callers of flush() in the meantime share one round trip.
 *
 * Callers of commit() wait for a flush, not for an attempt: the loop flushes while there are waiters, and backs off
 * after failures for all of them together.
 */
export class Flusher {
  #running: Promise<void> | undefined
  #waiting: Promise<void> | undefined
  #failures = 0
  /** Waiters by flush number: at most one frozen and one pending flush. */
  readonly #commits = new Map<number, Commit>()
  readonly #waker = new Waker()
  readonly #options: FlusherOptions

  constructor(options: FlusherOptions) {
    this.#options = options
  }

  /** Resolves once everything tracked before the call is in the database; rejects if an attempt fails. */
  flush(): Promise<void> {
    if (this.#waiting) return this.#waiting
    if (!this.#running) return this.#start()
    this.#waiting = this.#running
      .catch(() => {}) // reported to that flush's own waiters
      .then(() => {
        this.#waiting = undefined
        return this.#start()
      })
    return this.#waiting
  }

  /**
   * Resolves once everything tracked before the call is committed; waiters share a flush. Rejects with
   * CommitTimeoutError after `timeoutMs`; the flush may still be committed later. Requires that run() is running.
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
        // Resolve after the driver has written the next flush, which it does in a setImmediate() callback, so that
        // the database works while the waiters' responses are sent.
        process.nextTick(() => setImmediate(resolve))
      },
    })
    this.#waker.wake()
    return promise
  }

  /** Ends the wait for the interval. After a failure the flush still waits for its delay. */
  hurry(): void {
    if (this.#failures === 0) this.#waker.wake()
  }

  /** Whether the last attempt failed. */
  get isFailing(): boolean {
    return this.#failures > 0
  }

  /**
   * Flushes every `intervalMs` until aborted, and immediately while there are waiters for a commit. After a failure
   * it backs off exponentially with jitter, by at most the interval.
   */
  async run(intervalMs: number, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      if (this.#failures > 0) await pause(backoff(this.#failures, FIRST_RETRY_MS, intervalMs), { signal })
      else if (this.#commits.size === 0) await this.#waker.wait(intervalMs, { signal })
      if (!signal.aborted) await this.flush().catch(() => {}) // reported by onAttempt
    }
  }

  /** Flushes everything, with retries for `timeoutMs`; then rejects with the last error. */
  async drain(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    for (let failures = 1; ; failures++) {
      try {
        return await timeout(deadline - performance.now(), () => this.flush())
      } catch (error) {
        const wait = backoff(failures, FIRST_RETRY_MS, LONGEST_DRAIN_RETRY_MS)
        if (performance.now() + wait >= deadline) throw error
        await pause(wait)
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
    // An unsettled flush goes first and unchanged; what arrived since is in the next one.
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

function withResolvers() {
  let resolve: () => void = () => {}
  let reject: (error: Error) => void = () => {}
  const promise = new Promise<void>((res, rej) => {
    resolve = res
    reject = rej
  })
  return { promise, resolve, reject }
}
