// Generates the OpenAPI document from the routes registered after this plugin, and adds its general sections.

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
        'Counts the distinct workspaces and users that used a boundary, and the requests that boundaries of AI ' +
        'agents allowed and denied, across all replicas.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/' }],
    tags: [
      { name: 'agent', description: 'For agents, which send boundary logs.' },
      { name: 'admin', description: 'For admins, who read and snapshot the counts.' },
      { name: 'probe', description: 'For Prometheus and Kubernetes.' },
      { name: 'docs', description: 'The API itself.' },
    ],
    components: {
      securitySchemes: {
        agent: {
          type: 'http',
          scheme: 'bearer',
          description: "A token of AGENT_TOKENS, or an agent's JWT.",
        },
        admin: { type: 'http', scheme: 'bearer', description: 'A token of ADMIN_TOKENS.' },
        metrics: { type: 'http', scheme: 'bearer', description: 'METRICS_TOKEN, if it is set.' },
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
