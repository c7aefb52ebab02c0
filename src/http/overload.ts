// Rejects requests with 503 while this replica is overloaded: its event loop is late, or its heap nearly full.

import { getHeapStatistics } from 'node:v8'
import fp from 'fastify-plugin'
import { Overloaded } from './errors.js'

export interface OverloadLimits {
  /** Time between two samples. */
  sampleMs?: number
  /** Delay of a sample from which on the event loop counts as late. */
  maxDelayMs: number
  maxHeapBytes?: number
  /** Called at each sample while the heap is nearly full. */
  onHeapFull?: () => void
}

/** Applies to the scope that registers it: probes, scrapes and admins are still served. */
export default fp<OverloadLimits>(
  async (app, limits) => {
    const { sampleMs = 100, maxDelayMs, onHeapFull } = limits
    const { maxHeapBytes = 0.9 * getHeapStatistics().heap_size_limit } = limits
    let isOverloaded = false
    let wasLate = false
    let sampledAt = performance.now()
    // A single late sample is a pause of the machine or the garbage collector, which is over by then; two in a row are
    // an overload. The histogram of node:perf_hooks cannot tell: it ignores the first delay after each reset.
    const sampling = setInterval(() => {
      const now = performance.now()
      const isLate = now - sampledAt - sampleMs > maxDelayMs
      const isFull = getHeapStatistics().used_heap_size > maxHeapBytes
      if (isFull) onHeapFull?.()
      isOverloaded = isFull || (isLate && wasLate)
      wasLate = isLate
      sampledAt = now
    }, sampleMs).unref()
    app.addHook('onClose', async () => clearInterval(sampling))

    app.addHook('onRequest', (_request, _reply, done) => (isOverloaded ? done(new Overloaded()) : done()))
  },
  { name: 'overload' },
)
