// Answers a method that a path does not have with 405, and names in Allow those that it has.

import { METHODS } from 'node:http'
import fp from 'fastify-plugin'
import FindMyWay from 'find-my-way'
import { MethodNotAllowed } from './errors.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** Answers the other methods of the paths registered so far. */
    rejectOtherMethods(): void
    /** The route of a request whose method that route does not have. */
    otherRouteOf(request: FastifyRequest): string | undefined
  }
}

/**
 * Fastify's router has a tree for each method: routes for the 30 others of each path took half of the time in which the
 * service is built. This router has a single tree.
 */
const ANY_METHOD = 'GET'

/** Observes the routes registered after it. */
export default fp<{ maxParamLength: number }>(
  async (app, { maxParamLength }) => {
    const router = FindMyWay({ maxParamLength })
    const paths = new Set<string>()
    app.addHook('onRoute', ({ url }) => {
      if (!paths.has(url)) router.on(ANY_METHOD, url, () => {}, url)
      paths.add(url)
    })

    const methodsOf = new Map<string, string[]>()
    app.decorate('otherRouteOf', ({ url, method }) => {
      const route = router.find(ANY_METHOD, url)?.store
      return methodsOf.get(route)?.includes(method) ? undefined : route
    })

    app.decorate('rejectOtherMethods', () => {
      const known = METHODS.filter((method) => app.supportedMethods.includes(method))
      for (const url of paths)
        methodsOf.set(
          url,
          known.filter((method) => app.hasRoute({ url, method })),
        )
      // In a hook, because a body must not be read.
      app.addHook('onRequest', (request, reply, done) => {
        const route = request.is404 ? app.otherRouteOf(request) : undefined
        if (route === undefined) return done()
        const allowed = methodsOf.get(route)?.join(', ') ?? ''
        reply.header('allow', allowed)
        done(new MethodNotAllowed(request.method, allowed))
      })
    })
  },
  { name: 'methods' },
)
