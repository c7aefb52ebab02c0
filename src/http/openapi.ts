// Gathers the routes that come after it into the OpenAPI document, and says what they do not say themselves.

import swagger, { type SwaggerOptions } from '@fastify/swagger'
import fp from 'fastify-plugin'
import { version } from '../version.js'

const options: SwaggerOptions = {
  openapi: {
    openapi: '3.1.0',
    info: {
      title: 'boundary-usage',
      version,
      description:
        'Counts what the boundaries of AI agents allowed and denied: distinct workspaces, distinct users and ' +
        'requests, over all replicas.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/' }],
    tags: [
      { name: 'agent', description: 'For the boundaries in the workspaces.' },
      { name: 'admin', description: 'For whoever reads the counts.' },
      { name: 'probe', description: 'For Prometheus and Kubernetes.' },
      { name: 'docs', description: 'For people and code generators.' },
    ],
    components: {
      securitySchemes: {
        agent: {
          type: 'http',
          scheme: 'bearer',
          description: 'A token of AGENT_TOKENS, or a JWT of an agent.',
        },
        admin: { type: 'http', scheme: 'bearer', description: 'A token of ADMIN_TOKENS.' },
        metrics: { type: 'http', scheme: 'bearer', description: 'METRICS_TOKEN, where one is set.' },
      },
    },
  },
  refResolver: {
    buildLocalReference: (json, _base, _fragment, i) =>
      typeof json.$id === 'string' ? json.$id : `Schema${i}`,
  },
}

export default fp(
  async (app) => {
    await app.register(swagger, options)
  },
  { name: 'openapi' },
)
