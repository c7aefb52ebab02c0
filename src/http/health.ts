// The routes for probes and Prometheus: /-/healthy, /-/ready and /metrics.

import { setImmediate as nextRound } from 'node:timers/promises'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import { ErrorSchema, HealthSchema, RETRY_AFTER, ref, responses } from './schemas.js'

export const health: FastifyPluginAsyncTypebox = async (app) => {
  const { metrics, readiness } = app
  const common = { tags: ['probe'], security: [] }

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
      const reasons = readiness.reasons()
      if (reasons.length === 0) return { status: 'ok' as const, reasons }
      return reply.code(503).header('retry-after', 1).send({ status: 'unavailable', reasons })
    },
  )

  /** Shared by all that ask in one round of the event loop: it takes a millisecond, and anyone may ask. */
  let scrape: Promise<string> | undefined
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
      scrape ??= nextRound().then(() => {
        scrape = undefined
        return metrics.registry.metrics()
      })
      return scrape
    },
  )
}
