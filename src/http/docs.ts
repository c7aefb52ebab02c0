// The OpenAPI document: /openapi.json, and a browsable version at /docs.

import swaggerUi from '@fastify/swagger-ui'
import type { FastifyPluginAsync } from 'fastify'
import { responses } from './schemas.js'

export const docs: FastifyPluginAsync = async (app) => {
  await app.register(swaggerUi, { routePrefix: '/docs', staticCSP: true })

  app.get(
    '/openapi.json',
    {
      schema: {
        operationId: 'getOpenApi',
        summary: 'The OpenAPI document',
        tags: ['docs'],
        security: [],
        response: responses(
          200,
          { type: 'object', additionalProperties: true },
          'An OpenAPI 3.1 document.',
          503,
        ),
      },
    },
    async () => app.swagger(),
  )
}
