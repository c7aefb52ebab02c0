// POST /boundary/logs: accepts an agent's batch as a whole or not at all.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { onRequestHookHandler } from 'fastify'
import type { Config } from '../config.js'
import { BodyBudget } from '../http/body-budget.js'
import { InvalidBody, UnsupportedEncoding, UnsupportedMediaType } from '../http/errors.js'
import overload from '../http/overload.js'
import { limitRate } from '../http/rate-limit.js'
import { ref, responses } from '../http/schemas.js'
import type { Timing } from '../timing.js'
import { identify, type ReceivedBatch, receiveJson, receiveProtobuf } from './batch.js'
import { contentEncodings, receiver } from './receive.js'
import { AcceptedSchema, BatchSchema, IdentityHeadersSchema, ProtobufBatchSchema } from './schemas.js'
import { Line, Turns } from './turns.js'

const PATH = '/boundary/logs'
const JSON_TYPE = 'application/json'
const PROTOBUF_TYPE = 'application/x-protobuf'
const ACCEPTED_TYPES = `${JSON_TYPE}, ${PROTOBUF_TYPE}`

/** The memory of all bodies in progress, as a multiple of the largest body allowed. */
const MAX_LARGEST_BODIES = 64
/** Where only small bodies are allowed, there may be many. */
const MIN_BUDGET_BYTES = 16 * 1_048_576

const REQUEST_SCHEMA = {
  headers: IdentityHeadersSchema,
  body: {
    content: {
      [JSON_TYPE]: { schema: ref(BatchSchema) },
      [PROTOBUF_TYPE]: { schema: ref(ProtobufBatchSchema) },
    },
  },
}

/** The result of a batch, by the status of its response. */
const RESULTS = {
  202: 'accepted',
  400: 'invalid',
  401: 'unauthorized',
  403: 'forbidden',
  413: 'too_large',
  415: 'unsupported',
  429: 'rate_limited',
  503: 'unavailable',
  504: 'unknown',
} as const

export const boundaryLogs: FastifyPluginAsyncTypebox<{ config: Config; timing: Timing }> = async (
  app,
  { config, timing },
) => {
  const { metrics, counting } = app
  metrics.counterOf(
    'boundary_usage_batches_total',
    'Batches of boundary logs received, by result. Only the logs of accepted batches are counted.',
    'result',
    () => resultsOf(metrics.requestDurations.countsOf('POST', PATH)),
  )
  const counted = metrics.counter(
    'boundary_usage_logs_total',
    'Boundary logs in accepted batches, by decision. Skipped logs have no resource that this version knows.',
    'decision',
    ['allow', 'deny', 'skipped'],
  )

  const limit = config.BODY_LIMIT_BYTES
  const budget = new BodyBudget(Math.max(MAX_LARGEST_BODIES * limit, MIN_BUDGET_BYTES))
  metrics.gauge(
    'boundary_usage_bodies_in_progress_bytes',
    'Memory held by request bodies that have not arrived completely, or that wait for their turn.',
    () => budget.bytes,
  )
  await app.register(overload, { maxDelayMs: timing.maxEventLoopDelayMs, onHeapFull: () => budget.shed() })

  const receiving = { budget, turns: new Turns(), line: new Line(), limit }
  app.addContentTypeParser(JSON_TYPE, receiver(receiving, receiveJson))
  app.addContentTypeParser(PROTOBUF_TYPE, receiver(receiving, receiveProtobuf))

  app.route({
    method: 'POST',
    url: PATH,
    onRequest: [app.guard.agent, limitRate(config.RATE_LIMIT_PER_MINUTE), checkEncoding],
    errorHandler: (error, request, reply) => {
      if (error.code !== 'FST_ERR_CTP_INVALID_MEDIA_TYPE') throw error
      reply.header('accept', ACCEPTED_TYPES)
      throw new UnsupportedMediaType(JSON.stringify(request.headers['content-type'] ?? ''), ACCEPTED_TYPES)
    },
    schema: {
      operationId: 'sendBoundaryLogs',
      summary: 'Send a batch of boundary logs',
      description:
        'A response other than 2xx and 504 means that nothing was counted. A batch with a session_id can be sent again ' +
        'after any response, to any replica: each of its logs counts once. Without a session_id, sending a batch again ' +
        'after 504 or without a response may count it twice. The body may be compressed with gzip. Without a JWT, JSON ' +
        'must contain workspace_id and owner_id in the body, and protobuf requires both in its headers.',
      tags: ['agent'],
      security: [{ agent: [] }],
      response: responses(
        202,
        ref(AcceptedSchema),
        'The batch is counted.',
        400,
        401,
        403,
        408,
        413,
        415,
        429,
        503,
        504,
      ),
    },
    // Only for the document: the parsers validate the body and the headers.
    config: { swaggerTransform: ({ schema, url }) => ({ schema: { ...schema, ...REQUEST_SCHEMA }, url }) },
    // Not async: a promise only if there is something to wait for.
    handler: (request, reply) => {
      const received = request.body as ReceivedBatch | undefined
      if (received === undefined) throw new InvalidBody('the body must be an object')
      const { allowed, denied, skipped, sessionId, numbers } = received.batch
      const ids = identify(request.identity, received.given)
      const accept = () => {
        counted.allow += allowed
        counted.deny += denied
        counted.skipped += skipped
        reply.code(202).send({ allowed, denied, skipped })
      }
      const session = sessionId !== undefined && numbers ? { id: sessionId, numbers } : undefined
      // The number of a skipped log counts as received.
      const committed =
        allowed + denied + (session ? skipped : 0) > 0
          ? counting.count(
              request.identity ? undefined : request.credential,
              ids.workspaceId,
              ids.ownerId,
              allowed,
              denied,
              session,
            )
          : undefined
      if (committed === undefined) return void accept()
      return committed.then(() => {
        accept()
        return reply
      })
    },
  })
}

function resultsOf(counts: Map<number, number>): Record<string, number> {
  const results: Record<string, number> = { failed: 0 }
  for (const result of Object.values(RESULTS)) results[result] = 0
  for (const [status, count] of counts) {
    const result = Object.hasOwn(RESULTS, status) ? RESULTS[status as keyof typeof RESULTS] : 'failed'
    results[result] = (results[result] ?? 0) + count
  }
  return results
}

const checkEncoding: onRequestHookHandler = (request, reply, done) => {
  const { headers } = request
  const isEmpty = headers['transfer-encoding'] === undefined && !Number(headers['content-length'])
  // Fastify would reject a malformed Content-Type even if there is nothing that it describes.
  if (isEmpty && request.mediaType === undefined) delete request.raw.headers['content-type']
  if (headers['content-encoding'] === undefined) return done()
  const encodings = contentEncodings(headers)
  if (encodings.length > 1 || !/^((x-)?gzip)?$/.test(encodings[0] ?? '')) {
    reply.header('accept-encoding', 'gzip')
    throw new UnsupportedEncoding(JSON.stringify(encodings.join(', ')))
  }
  done()
}
