// The API for people: /openapi.json, and the same browsable at /docs.

import swaggerUi from '@fastify/swagger-ui'
import type { FastifyPluginAsync } from 'fastify'

export const docs: FastifyPluginAsync = async (app) => {
  await app.register(swaggerUi, { routePrefix: '/docs', staticCSP: true })

  app.get(
    '/openapi.json',
    {
      schema: {
        operationId: 'getOpenApi',
        summary: 'This document',
        tags: ['docs'],
        security: [],
        response: { 200: { type: 'object', additionalProperties: true, description: 'OpenAPI 3.1.' } },
      },
    },
    async () => app.swagger(),
  )
}
