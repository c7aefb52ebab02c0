// What the OpenAPI document says besides the routes: title, tags, security schemes, names of the components.

import type { SwaggerOptions } from '@fastify/swagger'
import { version } from '../version.js'

export const openapi: SwaggerOptions = {
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
