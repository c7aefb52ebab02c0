// The error responses: a client's own errors in full; internal errors only in the log.

import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { DatabaseBusyError, DatabaseUnavailableError } from '../database/client.js'
import { DatabaseBusy, DatabaseUnavailable, NotFound, RETRIABLE } from './errors.js'

const RETRY_AFTER_S = 1

export default fp(
  async (app) => {
    app.setErrorHandler(respond)
    app.setNotFoundHandler(async () => {
      throw new NotFound('no such route: GET /docs lists all routes')
    })
  },
  { name: 'errors' },
)

function respond(thrown: FastifyError, request: FastifyRequest, reply: FastifyReply) {
  const error = publicError(thrown)
  const statusCode = error.statusCode && error.statusCode >= 400 ? error.statusCode : 500
  if (statusCode === 500)
    request.server.log.error({ err: thrown, route: request.routeOptions.url }, 'request failed')
  if (statusCode === 401) reply.header('www-authenticate', 'Bearer')
  if (RETRIABLE.has(statusCode) && !reply.hasHeader('retry-after')) reply.header('retry-after', RETRY_AFTER_S)
  // Fastify closes the connection after any body that it failed to parse. If the whole body was received, the
  // connection is still usable, and pipelined requests can proceed.
  if (statusCode === 400 && request.raw.complete) reply.removeHeader('connection')
  return reply.code(statusCode).send({
    statusCode,
    code: statusCode === 500 ? 'INTERNAL_ERROR' : (error.code ?? 'ERROR'),
    error: STATUS_CODES[statusCode],
    message: statusCode === 500 ? 'internal error: see the log of this replica' : error.message,
  })
}

function publicError(thrown: FastifyError): FastifyError {
  if (thrown instanceof DatabaseBusyError) return new DatabaseBusy()
  if (thrown instanceof DatabaseUnavailableError) return new DatabaseUnavailable()
  return thrown
}
