// What all routes for admins have in common.

import type { FastifyInstance } from 'fastify'

/** For the schema of each route: its section of the OpenAPI document, and its credentials. */
export const ADMIN_ROUTE = { tags: ['admin'], security: [{ admin: [] }] }

/** Restricts the routes of the plugin to admins. None has a body: one that is sent is not read, whatever its type. */
export function restrictToAdmins(app: FastifyInstance): void {
  app.addHook('onRequest', app.guard.admin)
  app.addHook('onRequest', (request, _reply, done) => {
    delete request.raw.headers['content-type'] // Fastify would reject a malformed one
    done()
  })
  app.addContentTypeParser('*', (_request, payload, done) => {
    payload.resume()
    done(null)
  })
}
