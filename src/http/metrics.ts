// The metrics: every one that the service exports stands here; the parts that count them get them from here.

import type { FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { version } from '../version.js'
import { requestDurations } from './request-durations.js'

/** What became of a batch, by the status of its answer; any other is a fault of ours. */
const RESULTS: Record<number, string> = {
  202: 'accepted',
  400: 'invalid',
  401: 'unauthorized',
  403: 'forbidden',
  413: 'too_large',
  415: 'unsupported',
  429: 'rate_limited',
  503: 'unavailable',
  504: 'unknown',
}

export type Metrics = ReturnType<typeof createMetrics>

declare module 'fastify' {
  interface FastifyInstance {
    metrics: Metrics
  }
  interface FastifyRequest {
    /** Reading of performance.now(). */
    arrivedAt: number
  }
}

export default fp(
  async (app) => {
    const metrics = createMetrics()
    app.decorate('metrics', metrics)
    // Until the answer is sent, not until it has left: listening for that takes longer than it is worth.
    app.decorateRequest('arrivedAt', 0)
    app.addHook('onRequest', (request, _reply, done) => {
      request.arrivedAt = performance.now()
      done()
    })
    app.addHook('onSend', (request, reply, payload, done) => {
      if (request.raw.destroyed && !request.raw.complete) return done(null, payload) // nobody is there to be answered
      const seconds = (performance.now() - request.arrivedAt) / 1000
      metrics.requestDurations.observe(request.method, routeOf(request), reply.statusCode, seconds)
      done(null, payload)
    })

    /** Most requests name their route as it is, and asking Fastify for it makes a large object. */
    function routeOf(request: FastifyRequest): string {
      if (request.is404) return 'unknown'
      return metrics.requestDurations.hasRoute(request.url) ? request.url : String(request.routeOptions.url)
    }
  },
  { name: 'metrics' },
)

function createMetrics() {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })
  // Gauges with a counter's suffix; without it there are the same by type.
  for (const kind of ['handles', 'requests', 'resources'])
    registry.removeSingleMetric(`nodejs_active_${kind}_total`)

  const buildInfo = new Gauge({
    registers,
    name: 'boundary_usage_build_info',
    help: 'Constant 1; the label is the version that runs.',
    labelNames: ['version'],
  })
  buildInfo.set({ version }, 1)

  /** A counter that is read when it is scraped: the library's own increments would take a request a microsecond. */
  function counter(name: string, help: string, label: string, read: () => Record<string, number>): void {
    new Counter({
      registers,
      name,
      help,
      labelNames: [label],
      collect() {
        this.reset()
        for (const [value, count] of Object.entries(read())) this.inc({ [label]: value }, count)
      },
    })
  }

  /** Plain numbers to count in, all there from the start, so that their first increase is seen. */
  function tally<const V extends string>(
    name: string,
    help: string,
    label: string,
    values: readonly V[],
  ): Record<V, number> {
    const counts = Object.fromEntries(values.map((value) => [value, 0])) as Record<V, number>
    counter(name, help, label, () => counts)
    return counts
  }

  const durations = requestDurations(registry)
  counter(
    'boundary_usage_batches_total',
    'Batches of boundary logs received, by result; only accepted ones are counted.',
    'result',
    () => {
      const results = Object.fromEntries([...Object.values(RESULTS), 'failed'].map((result) => [result, 0]))
      for (const [status, count] of durations.countsOf('POST', '/boundary/logs')) {
        const result = RESULTS[status] ?? 'failed'
        results[result] = (results[result] ?? 0) + count
      }
      return results
    },
  )

  return {
    registry,
    requestDurations: durations,
    logs: tally(
      'boundary_usage_logs_total',
      'Boundary logs in accepted batches, by decision; skipped ones carry no resource this version knows.',
      'decision',
      ['allow', 'deny', 'skipped'],
    ),
    flushes: tally(
      'boundary_usage_flushes_total',
      'Tries to flush, by result; duplicate: an earlier try had been applied and its answer lost.',
      'result',
      ['applied', 'duplicate', 'failed'],
    ),
    flushDuration: new Histogram({
      registers,
      name: 'boundary_usage_flush_duration_seconds',
      help: 'Time that a try to flush took.',
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    }),
    flushLastSuccess: new Gauge({
      registers,
      name: 'boundary_usage_flush_last_success_timestamp_seconds',
      help: 'Unix time of the last flush that was applied.',
    }),
    snapshots: new Counter({
      registers,
      name: 'boundary_usage_snapshots_total',
      help: 'Tries to take a snapshot, by trigger and result; not_due: another replica had recorded the period.',
      labelNames: ['trigger', 'result'],
    }),
    snapshotDuration: new Histogram({
      registers,
      name: 'boundary_usage_snapshot_duration_seconds',
      help: 'Time that taking a snapshot took.',
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    }),
    snapshotLastSuccess: new Gauge({
      registers,
      name: 'boundary_usage_snapshot_last_success_timestamp_seconds',
      help: 'Unix time of the last snapshot that this replica took.',
    }),
    deliveries: tally(
      'boundary_usage_deliveries_total',
      'Attempts to deliver a snapshot, by result; dead: given up.',
      'result',
      ['delivered', 'failed', 'dead'],
    ),

    /** A gauge that is read when it is scraped. */
    gauge(name: string, help: string, read: () => number): void {
      new Gauge({
        registers,
        name,
        help,
        collect() {
          this.set(read())
        },
      })
    },

    /** As gauge(), with one label; `read` gives its values. */
    gauges(name: string, help: string, label: string, read: () => Record<string, number>): void {
      new Gauge({
        registers,
        name,
        help,
        labelNames: [label],
        collect() {
          for (const [value, reading] of Object.entries(read())) this.set({ [label]: value }, reading)
        },
      })
    },
  }
}
