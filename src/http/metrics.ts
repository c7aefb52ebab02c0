// The metrics: their registry, those of all requests, and the helpers by which the concerns add their own.

import type { FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { version } from '../version.js'
import { requestDurations } from './request-durations.js'

export type Metrics = ReturnType<typeof createMetrics>

declare module 'fastify' {
  interface FastifyInstance {
    metrics: Metrics
  }
  interface FastifyRequest {
    /** When the request arrived, by performance.now(). */
    arrivedAt: number
  }
}

export default fp(
  async (app) => {
    const metrics = createMetrics()
    app.decorate('metrics', metrics)
    // Measures until the response is sent, not until the client has received it, which would need a listener for the
    // end of every response.
    app.decorateRequest('arrivedAt', 0)
    app.addHook('onRequest', (request, _reply, done) => {
      request.arrivedAt = performance.now()
      done()
    })
    app.addHook('onSend', (request, reply, payload, done) => {
      // A client that disconnected before its request was complete receives no response.
      if (!request.raw.complete && request.raw.destroyed) return done(null, payload)
      const seconds = (performance.now() - request.arrivedAt) / 1000
      metrics.requestDurations.observe(request.method, routeOf(request), reply.statusCode, seconds)
      done(null, payload)
    })

    /** The URL of most requests is their route; request.routeOptions would build a large object. */
    function routeOf(request: FastifyRequest): string {
      if (request.is404) return app.otherRouteOf(request) ?? 'unknown'
      return metrics.requestDurations.hasRoute(request.url) ? request.url : String(request.routeOptions.url)
    }
  },
  { name: 'metrics', dependencies: ['methods'] },
)

function createMetrics() {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })
  // Gauges with the suffix of a counter; the same are exported without it, by type.
  for (const kind of ['handles', 'requests', 'resources'])
    registry.removeSingleMetric(`nodejs_active_${kind}_total`)

  const buildInfo = new Gauge({
    registers,
    name: 'boundary_usage_build_info',
    help: 'Constant 1, labelled with the version of the service.',
    labelNames: ['version'],
  })
  buildInfo.set({ version }, 1)

  /** Adds a counter with one label, which is read when it is scraped. `read` returns a count for each of its values. */
  function counterOf(name: string, help: string, label: string, read: () => Record<string, number>): void {
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

  /**
   * Adds a counter and returns one plain number per value of its label, to be incremented: prom-client's own increment
   * takes a microsecond. All series are exported from the start, so that rate() sees the first increase.
   */
  function counter<const V extends string>(
    name: string,
    help: string,
    label: string,
    values: readonly V[],
  ): Record<V, number> {
    const counts = Object.fromEntries(values.map((value) => [value, 0])) as Record<V, number>
    counterOf(name, help, label, () => counts)
    return counts
  }

  return {
    registry,
    requestDurations: requestDurations(registry),
    counter,
    counterOf,

    flushes: counter(
      'boundary_usage_flushes_total',
      'Attempts to flush, by result; duplicate: an earlier attempt had been applied, but its response was lost.',
      'result',
      ['applied', 'duplicate', 'failed'],
    ),
    duplicates: new Counter({
      registers,
      name: 'boundary_usage_duplicate_logs_total',
      help: 'Logs of sessions that arrived again and were not counted again.',
    }),
    flushDuration: new Histogram({
      registers,
      name: 'boundary_usage_flush_duration_seconds',
      help: 'Duration of attempts to flush.',
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    }),
    flushLastSuccess: new Gauge({
      registers,
      name: 'boundary_usage_flush_last_success_timestamp_seconds',
      help: 'Unix time of the last flush applied by this replica.',
    }),
    snapshots: new Counter({
      registers,
      name: 'boundary_usage_snapshots_total',
      help: 'Attempts to take a snapshot, by trigger and result; not_due: the period had already been recorded; early: it has not ended by the clock of the database.',
      labelNames: ['trigger', 'result'],
    }),
    snapshotDuration: new Histogram({
      registers,
      name: 'boundary_usage_snapshot_duration_seconds',
      help: 'Duration of snapshots taken by this replica.',
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    }),
    snapshotLastSuccess: new Gauge({
      registers,
      name: 'boundary_usage_snapshot_last_success_timestamp_seconds',
      help: 'Unix time of the last snapshot taken by this replica.',
    }),
    deliveries: counter(
      'boundary_usage_deliveries_total',
      'Attempts to deliver a snapshot, by result; dead: no further attempt will be made.',
      'result',
      ['delivered', 'failed', 'dead'],
    ),

    /** Adds a gauge whose value is read when it is scraped. */
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

    /** Like gauge(), with one label. `read` returns a value for each of its values. */
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
