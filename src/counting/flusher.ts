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
  onAttempt?: (outcome: FlushAttempt, seconds: number, flush: Flush) => void
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

/** The end of a part, and the waiters for its report. */
interface Cut {
  readonly until: number
  /** The flush that carries it; undefined while the tracker can seal nothing more. */
  seq: number | undefined
  /** Until then, on the monotonic clock, no later flush begins. */
  heldUntil: number
  readonly promise: Promise<void>
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/**
 * At most one run of flushes is in progress and at most one waits behind it. The waiting one contains everything that is
 * tracked until it starts, so all callers of flush() in the meantime share one round trip.
 *
 * Callers of commit() wait for a flush, not for an attempt: the loop flushes while there are waiters, and backs off
 * after failures for all of them together.
 *
 * Where a period ends, report() seals what was tracked before, and holds back what is tracked after, also what another cut
 * seals meanwhile: it would go into the row that a snapshot is about to delete.
 */
export class Flusher {
  #running: Promise<void> = Promise.resolve()
  #isRunning = false
  #waiting: Promise<void> | undefined
  #failures = 0
  /** Those that are not reported yet, in order. */
  #cuts: Cut[] = []
  /** Those behind which flushes are held back. */
  #holds: Cut[] = []
  #isDraining = false
  readonly #unblocker = new Waker()
  /** Waiters by flush number. */
  readonly #commits = new Map<number, Commit>()
  readonly #waker = new Waker()
  readonly #options: FlusherOptions

  constructor(options: FlusherOptions) {
    this.#options = options
  }

  /** Resolves once everything tracked before the call is in the database; rejects if an attempt fails. */
  flush(): Promise<void> {
    if (this.#waiting) return this.#waiting
    if (!this.#isRunning) return this.#start()
    this.#waiting = this.#running
      .catch(() => {}) // reported to that flush's own waiters
      .then(() => {
        this.#waiting = undefined
        return this.flush()
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

  /**
   * Seals what was tracked before `until`, in milliseconds since 1970 by the database's clock, and flushes it, after
   * `delayMs` at the latest. What follows is held back until release(until), for at most `holdMs`. Resolves once the part
   * is in the database and reported there; rejects if an attempt fails, and then the next attempt reports it. If the
   * tracker holds as many sealed parts as it can, this part ends when it has room again.
   */
  async report(until: number, { delayMs = 0, holdMs = 0 } = {}): Promise<void> {
    const heldUntil = this.#isDraining ? 0 : performance.now() + holdMs
    const cut: Cut = { until, seq: undefined, heldUntil, ...withResolvers() }
    this.#cuts.push(cut)
    if (holdMs > 0) this.#holds.push(cut)
    this.#seal()
    if (delayMs > 0) await pause(delayMs, { ref: false })
    this.#unblocker.wake()
    if (!this.#isRunning) this.#start(0).catch(() => {}) // reported to the cut
    return cut.promise
  }

  /** Holds nothing back any longer behind the cut at `until`, nor, with `earlier`, behind those before it. */
  release(until: number, { earlier = false } = {}): void {
    this.#holds = this.#holds.filter((cut) => cut.until !== until && !(earlier && cut.until < until))
    this.#unblocker.wake()
  }

  /** Ends the wait for the interval, and for the end of a hold if need be. After a failure the flush still waits for its delay. */
  hurry(): void {
    if (this.#options.tracker.isFlushUrgent) this.#unblocker.wake()
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

  /**
   * Flushes everything, with retries for `timeoutMs`; then rejects with the last error. Holds in progress end after half
   * of that time, and no other begins.
   */
  async drain(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    this.#isDraining = true
    const latest = performance.now() + timeoutMs / 2
    for (const cut of this.#holds) cut.heldUntil = Math.min(cut.heldUntil, latest)
    this.#unblocker.wake()
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

  /** Flushes up to the number `target`, and whatever is sealed before it gets there. */
  #start(target = this.#options.tracker.trackedSeq): Promise<void> {
    this.#isRunning = true
    this.#running = this.#run(target)
    return this.#running
  }

  async #run(target: number): Promise<void> {
    const { tracker } = this.#options
    try {
      for (;;) {
        const hold = tracker.isFlushUrgent ? undefined : this.#firstHold()
        // An unsettled flush goes first and unchanged, then what is sealed.
        const flush = tracker.nextFlush({ pending: tracker.settledSeq < target, upTo: hold?.seq })
        this.#seal()
        if (flush) await this.#apply(flush)
        else if (hold && (tracker.hasSealed || tracker.settledSeq < target))
          await this.#unblocker.wait(Math.max(0, hold.heldUntil - performance.now()))
        else return
      }
    } finally {
      // At once, not in a callback: report() relies on a run in progress to find what it seals.
      this.#isRunning = false
    }
  }

  /** The hold with the lowest number: behind it, nothing is flushed. */
  #firstHold(): Cut | undefined {
    this.#holds = this.#holds.filter(({ heldUntil }) => performance.now() < heldUntil)
    return this.#holds.find(({ seq }) => seq !== undefined)
  }

  /** Seals for all cuts that are waiting for it. */
  #seal(): void {
    const waiting = this.#cuts.filter(({ seq }) => seq === undefined)
    const last = waiting.at(-1)
    const flush = last && this.#options.tracker.seal(last.until)
    if (flush) for (const cut of waiting) cut.seq = flush.flushSeq
  }

  async #apply(flush: Flush): Promise<void> {
    const { tracker, apply, onAttempt } = this.#options
    const start = performance.now()
    const seconds = () => (performance.now() - start) / 1000
    let outcome: FlushOutcome
    try {
      outcome = await apply(flush)
    } catch (error) {
      this.#failures++
      for (const { reject } of this.#cuts.splice(0)) reject(error)
      onAttempt?.({ result: 'failed', error }, seconds(), flush)
      throw error
    }
    tracker.settle(flush, outcome.newPeriod, outcome.storedRuns)
    this.#failures = 0
    this.#commits.get(flush.flushSeq)?.resolve()
    const isReported = ({ seq = Number.POSITIVE_INFINITY }: Cut) => seq <= flush.flushSeq
    for (const { resolve } of this.#cuts.filter(isReported)) resolve()
    this.#cuts = this.#cuts.filter((cut) => !isReported(cut))
    onAttempt?.(outcome, seconds(), flush)
  }
}

function withResolvers() {
  let resolve: () => void = () => {}
  let reject: (error: unknown) => void = () => {}
  const promise = new Promise<void>((res, rej) => {
    resolve = res
    reject = rej
  })
  return { promise, resolve, reject }
}
