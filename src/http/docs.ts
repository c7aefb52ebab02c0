// The OpenAPI document: /openapi.json, and a browsable version at /docs.

import { readFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyPluginAsync } from 'fastify'
import { Overloaded } from './errors.js'
import { responses } from './schemas.js'

/** Each holds up to a megabyte until its client has received it, and anyone may ask. */
const MAX_RESPONSES = 32

export const docs: FastifyPluginAsync = async (app) => {
  const open = new Set<ServerResponse>()
  app.addHook('onRequest', (_request, { raw }, done) => {
    if (open.size >= MAX_RESPONSES) return done(new Overloaded())
    open.add(raw)
    raw.once('close', () => open.delete(raw))
    done()
  })

  const icon = await readFile(new URL('../page/assets/icon.svg', import.meta.url))
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    staticCSP: true,
    uiConfig: { layout: 'BaseLayout' }, // without the top bar, whose logo is Swagger's
    theme: {
      title: 'boundary-usage API',
      favicon: [{ filename: 'icon.svg', rel: 'icon', type: 'image/svg+xml', sizes: 'any', content: icon }],
    },
  })

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
