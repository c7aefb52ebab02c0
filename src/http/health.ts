// The probes and the scrape: /-/healthy, /-/ready, /metrics.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import { ErrorSchema, HealthSchema, ref, responses } from './schemas.js'

export const health: FastifyPluginAsyncTypebox = async (app) => {
  const { metrics, database, counting } = app
  const common = { tags: ['probe'], security: [] }

  /** Why this replica should get no traffic; empty if it should. */
  function reasonsAgainst(): string[] {
    const reasons: string[] = []
    if (!database.isPrepared) reasons.push('the database schema is not in place yet')
    if (counting.unready) reasons.push(counting.unready)
    return reasons
  }
  metrics.gauge('boundary_usage_ready', 'Whether /-/ready says that this replica should get traffic.', () =>
    reasonsAgainst().length === 0 ? 1 : 0,
  )

  app.get(
    '/-/healthy',
    {
      schema: {
        ...common,
        operationId: 'isHealthy',
        summary: 'Whether the process serves',
        response: responses(200, ref(HealthSchema), 'It does.', 503),
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
        summary: 'Whether this replica should get traffic',
        description: 'A short outage of the database keeps a replica ready, because it can still count.',
        response: {
          ...responses(200, ref(HealthSchema), 'It should.'),
          503: {
            anyOf: [ref(HealthSchema), ref(ErrorSchema)],
            description: 'It should not; the reasons say why, or it is shutting down.',
          },
        },
      },
    },
    async (_request, reply) => {
      const reasons = reasonsAgainst()
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
        security: [{ metrics: [] }],
        produces: ['text/plain'],
        response: responses(200, Type.String(), 'The metrics.', 401, 503),
      },
    },
    async (_request, reply) => {
      reply.type(metrics.registry.contentType)
      return metrics.registry.metrics()
    },
  )
}
