// What all routes for admins have in common.

import type { FastifyInstance } from 'fastify'

/** For the schema of each route: its section of the OpenAPI document, and its credentials. */
export const ADMIN_ROUTE = { tags: ['admin'], security: [{ admin: [] }] }

/** Restricts the routes of the plugin to admins. None has a body, but many clients declare an empty one as JSON. */
export function restrictToAdmins(app: FastifyInstance): void {
  app.addHook('onRequest', app.guard.admin)
  app.addContentTypeParser('*', (_request, payload, done) => {
    payload.resume()
    done(null)
  })
}
