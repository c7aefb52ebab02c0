// Waiting: delays between attempts, pauses, limits in time, and wake-ups. Everything that waits in this service waits
// here. The timer of a wait holds all that the wait needs, so that no garbage collection ends it: Node.js 20 collects
// an unreferenced `AbortSignal.any([…, AbortSignal.timeout(…)])`, and whoever waits on it then waits forever.

/**
 * The delay before the next attempt after `failures` of them, in milliseconds: it doubles from `firstMs` up to
 * `longestMs`. The jitter takes off up to half, so that replicas that fail together do not try again together.
 */
export function backoff(failures: number, firstMs: number, longestMs: number): number {
  return Math.min(longestMs, firstMs * 2 ** (failures - 1)) * (0.5 + Math.random() / 2)
}

export interface WaitOptions {
  /** Ends the wait early, which is no error. */
  signal?: AbortSignal
  /** Whether the wait keeps the process alive; true by default. */
  ref?: boolean
}

/** Resolves after `ms`, or when `signal` is aborted. */
export function pause(ms: number, options?: WaitOptions): Promise<void> {
  return new Waker().wait(ms, options)
}

/** Lets one loop wait until there is something to do. */
export class Waker {
  #isWanted = false
  #end: (() => void) | undefined

  /** Ends the wait in progress, or the next one as it begins: no call is missed. */
  wake(): void {
    this.#isWanted = true
    this.#end?.()
  }

  /** Resolves when woken, after `ms`, or when `signal` is aborted. One wait at a time. */
  wait(ms: number, { signal, ref = true }: WaitOptions = {}): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', end)
        this.#end = undefined
        this.#isWanted = false
        resolve()
      }
      const timer = setTimeout(end, ms)
      if (!ref) timer.unref()
      signal?.addEventListener('abort', end)
      this.#end = end
      if (this.#isWanted || signal?.aborted) end()
    })
  }
}

/**
 * Runs `work` for all who ask while it has not begun: one run at a time, each at least `spacingMs` after the last one
 * began. Who asks while it runs waits for the next run.
 */
export class Coalescer<T> {
  #last: Promise<unknown> = Promise.resolve()
  #next: Promise<T> | undefined
  #begunAt = Number.NEGATIVE_INFINITY
  readonly #spacingMs: number
  readonly #work: () => Promise<T>

  constructor(spacingMs: number, work: () => Promise<T>) {
    this.#spacingMs = spacingMs
    this.#work = work
  }

  /** Resolves with the outcome of a run that begins after this call. */
  run(): Promise<T> {
    this.#next ??= this.#begin(this.#last)
    return this.#next
  }

  async #begin(last: Promise<unknown>): Promise<T> {
    await last
    const waitMs = this.#begunAt + this.#spacingMs - performance.now()
    if (waitMs > 0) await pause(waitMs)
    this.#begunAt = performance.now()
    const outcome = this.#work()
    this.#last = outcome.catch(() => {}) // who waits for it gets the error
    this.#next = undefined
    return outcome
  }
}

/** The work was not done in time; it may be done later all the same. */
export class TimeoutError extends Error {
  override name = 'TimeoutError'
}

/**
 * Settles as `work` does, but no later than after `ms`, with TimeoutError, or than `signal` is aborted, with its
 * reason. The signal that `work` gets is aborted then; what becomes of it afterwards is ignored.
 */
export async function timeout<T>(
  ms: number,
  work: (signal: AbortSignal) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  signal?.throwIfAborted()
  const controller = new AbortController()
  let abort: (reason: unknown) => void = () => {}
  const aborted = new Promise<never>((_, reject) => {
    abort = (reason) => {
      controller.abort(reason)
      reject(reason)
    }
  })
  const limitMs = Math.max(0, Math.round(ms))
  const timer = setTimeout(() => abort(new TimeoutError(`no answer within ${limitMs} ms`)), limitMs)
  const onAbort = () => abort(signal?.reason)
  signal?.addEventListener('abort', onAbort)
  try {
    return await Promise.race([work(controller.signal), aborted])
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
  }
}
