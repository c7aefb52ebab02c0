// Replaces async-hook-domain, which tap uses to find the test that caused an uncaught error. That package has a callback
// called for every promise of the process, also those of the service, which takes a tenth of the tests' CPU time.

import { AsyncLocalStorage } from 'node:async_hooks'

const current = new AsyncLocalStorage<Domain>()
const living = new Set<Domain>()

export class Domain {
  readonly onerror: (error: unknown, event: string) => void
  readonly #parent = current.getStore()

  /** Gets the errors of what the calling asynchronous resource starts. */
  constructor(onerror: Domain['onerror']) {
    this.onerror = onerror
    living.add(this)
    if (living.size === 1) process.setUncaughtExceptionCaptureCallback(report)
    current.enterWith(this)
  }

  destroy(): void {
    living.delete(this)
    if (living.size === 0) process.setUncaughtExceptionCaptureCallback(null)
  }

  /** Itself, or the innermost domain around it that has not ended. */
  get responsible(): Domain | undefined {
    return living.has(this) ? this : this.#parent?.responsible
  }
}

/** Gets unhandled rejections, too. */
function report(error: unknown): void {
  const [outermost] = living
  const domain = current.getStore()?.responsible ?? outermost
  domain?.onerror(error, 'uncaughtException')
}
