// The error responses: a client's own errors in full; internal errors only in the log.

import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import type { FastifySchemaValidationError } from 'fastify/types/schema.js'
import fp from 'fastify-plugin'
import { DatabaseBusyError, DatabaseQueueError, DatabaseUnavailableError } from '../database/client.js'
import {
  DatabaseBusy,
  DatabaseQueueFull,
  DatabaseUnavailable,
  FASTIFY_CODES,
  HeadersTooLarge,
  InvalidHttp,
  NotFound,
  RETRIABLE,
  RequestTimeout,
} from './errors.js'

const RETRY_AFTER_S = 1

const PASSED_CODES: ReadonlySet<string> = new Set(FASTIFY_CODES)

export default fp(
  async (app) => {
    app.setErrorHandler(respond)
    app.setSchemaErrorFormatter((errors, part) => new Error(explain(errors, part)))
    app.setNotFoundHandler(async () => {
      throw new NotFound('no such route: GET /docs lists all routes')
    })
  },
  { name: 'errors' },
)

/** Responds to an error of a request, also to one that no route has received. */
export function respond(thrown: FastifyError, request: FastifyRequest, reply: FastifyReply) {
  const error = publicError(thrown)
  const statusCode = error.statusCode && error.statusCode >= 400 ? error.statusCode : 500
  if (statusCode === 500)
    request.server.log.error({ err: thrown, route: request.routeOptions.url }, 'request failed')
  if (statusCode === 401) reply.header('www-authenticate', 'Bearer')
  if (RETRIABLE.has(statusCode) && !reply.hasHeader('retry-after')) reply.header('retry-after', RETRY_AFTER_S)
  // Fastify closes the connection after any body that it failed to parse. If the whole body was received, the
  // connection is still usable, and pipelined requests can proceed.
  if (statusCode === 400 && request.raw.complete) reply.removeHeader('connection')
  const body =
    statusCode === 500
      ? errorBody(500, 'INTERNAL_ERROR', 'internal error: see the log of this replica')
      : errorBody(statusCode, codeOf(error), error.message)
  return reply.code(statusCode).send(body)
}

/** Responds to bytes that Node.js could not parse as a request, or not in time, and closes the connection. */
export function respondToInvalidHttp(
  error: Error & { code?: string; reason?: string },
  socket: Socket,
): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy()
    return
  }
  const { statusCode = 400, code, message } = invalidHttp(error)
  const body = JSON.stringify(errorBody(statusCode, code, message))
  const head = [
    `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode]}`,
    'connection: close',
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(body)}`,
  ]
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy())
}

function invalidHttp({ code, reason, message }: Error & { code?: string; reason?: string }) {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return new RequestTimeout()
  if (code === 'HPE_HEADER_OVERFLOW') return new HeadersTooLarge()
  return new InvalidHttp(reason ?? message)
}

function publicError(thrown: FastifyError): FastifyError {
  if (thrown instanceof DatabaseBusyError) return new DatabaseBusy()
  if (thrown instanceof DatabaseQueueError) return new DatabaseQueueFull()
  if (thrown instanceof DatabaseUnavailableError) return new DatabaseUnavailable()
  return thrown
}

/** Libraries have codes of their own, some of which change with their version. */
function codeOf({ code }: FastifyError): string {
  const isDocumented = code !== undefined && (!code.startsWith('FST_') || PASSED_CODES.has(code))
  return isDocumented ? code : 'BAD_REQUEST'
}

function errorBody(statusCode: number, code: string, message: string) {
  return { statusCode, code, error: STATUS_CODES[statusCode], message }
}

/** Names each invalid value, and what it must be. */
function explain(errors: FastifySchemaValidationError[], part: string): string {
  return errors
    .map(({ instancePath, keyword, params, message }) => {
      const allowed = keyword === 'enum' ? params.allowedValues : undefined
      const what = Array.isArray(allowed) ? `must be one of ${allowed.join(', ')}` : message
      return `${part}${instancePath} ${what}`
    })
    .join(', ')
}
