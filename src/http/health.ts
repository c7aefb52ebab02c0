// The routes for probes and Prometheus: /-/healthy, /-/ready and /metrics.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import { ErrorSchema, HealthSchema, RETRY_AFTER, ref, responses } from './schemas.js'

export const health: FastifyPluginAsyncTypebox = async (app) => {
  const { metrics, database, counting, shutdown } = app
  const common = { tags: ['probe'], security: [] }

  /** Why this replica is not ready; empty if it is. */
  function reasonsNotReady(): string[] {
    const reasons: string[] = []
    if (!database.isPrepared) reasons.push('the database schema is not in place yet')
    if (shutdown.isComing) reasons.push('this replica is about to shut down')
    if (counting.unready) reasons.push(counting.unready)
    return reasons
  }
  metrics.gauge('boundary_usage_ready', 'Whether this replica is ready, as reported by /-/ready.', () =>
    reasonsNotReady().length === 0 ? 1 : 0,
  )

  app.get(
    '/-/healthy',
    {
      schema: {
        ...common,
        operationId: 'isHealthy',
        summary: 'Liveness probe',
        response: responses(200, ref(HealthSchema), 'The process serves requests.', 503),
      },
    },
    async () => ({ status: 'ok' as const, reasons: [] }),
  )

  app.get(
    '/-/ready',
    {
      schema: {
        ...common,
        operationId: 'isReady',
        summary: 'Readiness probe',
        description:
          'A replica stays ready during a short outage of the database, because it can still count in memory.',
        response: {
          ...responses(200, ref(HealthSchema), 'The replica is ready.'),
          503: {
            anyOf: [ref(HealthSchema), ref(ErrorSchema)],
            description: 'The replica is not ready, for the given reasons, or is shutting down.',
            headers: RETRY_AFTER,
          },
        },
      },
    },
    async (_request, reply) => {
      const reasons = reasonsNotReady()
      if (reasons.length === 0) return { status: 'ok' as const, reasons }
      return reply.code(503).header('retry-after', 1).send({ status: 'unavailable', reasons })
    },
  )

  app.get(
    '/metrics',
    {
      onRequest: app.guard.metrics,
      schema: {
        operationId: 'getMetrics',
        summary: 'Metrics in the Prometheus text format',
        tags: ['probe'],
        security: [{ metrics: [] }, {}],
        response: responses(
          200,
          { content: { 'text/plain': { schema: Type.String() } } },
          'The metrics. Credentials are required only with METRICS_TOKEN.',
          401,
          503,
        ),
      },
    },
    async (_request, reply) => {
      reply.type(metrics.registry.contentType)
      return metrics.registry.metrics()
    },
  )
}
