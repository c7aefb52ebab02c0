// The OpenAPI document: /openapi.json, and a browsable version at /docs.

import swaggerUi from '@fastify/swagger-ui'
import type { FastifyPluginAsync } from 'fastify'

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
        response: {
          200: { type: 'object', additionalProperties: true, description: 'An OpenAPI 3.1 document.' },
        },
      },
    },
    async () => app.swagger(),
  )
}
