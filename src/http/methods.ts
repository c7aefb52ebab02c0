// Answers a method that a path does not have with 405, and names in Allow those that it has.

import { METHODS } from 'node:http'
import fp from 'fastify-plugin'
import { MethodNotAllowed } from './errors.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** Adds routes for all other methods of the paths registered so far. */
    rejectOtherMethods(): void
  }
}

/** Observes the routes registered after it. */
export default fp(
  async (app) => {
    const known = METHODS.filter((method) => method !== 'CONNECT') // CONNECT never becomes a request
    for (const method of known) if (!app.supportedMethods.includes(method)) app.addHttpMethod(method)

    const paths = new Set<string>()
    app.addHook('onRoute', ({ url }) => void paths.add(url))

    app.decorate('rejectOtherMethods', () => {
      for (const url of [...paths]) {
        const allowed = known.filter((method) => app.hasRoute({ url, method })).join(', ')
        app.route({
          url,
          method: known.filter((method) => !app.hasRoute({ url, method })),
          schema: { hide: true },
          // In a hook, because a body must not be read.
          onRequest: (request, reply, done) => {
            reply.header('allow', allowed)
            done(new MethodNotAllowed(request.method, allowed))
          },
          handler: () => {},
        })
      }
    })
  },
  { name: 'methods' },
)
