// POST /boundary/logs: an agent's batch, counted as a whole or not at all.

import { createGunzip } from 'node:zlib'
import rateLimit from '@fastify/rate-limit'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { Static } from '@sinclair/typebox'
import { Ajv } from 'ajv'
import type { FastifyRequest, RequestPayload } from 'fastify'
import type { Config } from '../config.js'
import { Forbidden, InvalidBody, InvalidGzip, UnsupportedEncoding } from '../errors.js'
import { addFormats } from '../formats.js'
import type { Identity } from '../plugins/auth.js'
import type { BATCH_RESULTS } from '../plugins/metrics.js'
import overload from '../plugins/overload.js'
import { AcceptedSchema, BatchSchema, ref, responses } from './schemas.js'

type Batch = Static<typeof BatchSchema>

/** The value of `result` in boundary_usage_batches_total, by status. */
const RESULTS: Record<number, (typeof BATCH_RESULTS)[number]> = {
  202: 'accepted',
  400: 'invalid',
  401: 'unauthorized',
  403: 'forbidden',
  413: 'too_large',
  415: 'unsupported',
  429: 'rate_limited',
  503: 'unavailable',
  504: 'unknown',
}

export const boundaryLogs: FastifyPluginAsyncTypebox<{ config: Config }> = async (app, { config }) => {
  const { metrics, usage } = app

  // Only application/json is taken; Fastify's own text/plain parser would let a wrong type through to the schema.
  app.removeContentTypeParser('text/plain')

  await app.register(overload, { config })

  if (config.RATE_LIMIT_PER_MINUTE > 0) {
    await app.register(rateLimit, {
      max: config.RATE_LIMIT_PER_MINUTE,
      timeWindow: 60_000,
      keyGenerator: (request) => request.credential,
      cache: 10_000,
      errorResponseBuilder: (_request, { max, after }) =>
        Object.assign(new Error(`over ${max} batches a minute: send again in ${after}`), {
          statusCode: 429,
          code: 'RATE_LIMITED',
        }),
    })
  }

  // Without the coercion of Fastify's own validator: "true" is no boolean here.
  const validateBatch = addFormats(new Ajv()).compile(BatchSchema)

  app.route({
    method: 'POST',
    url: '/boundary/logs',
    onRequest: app.guard.agent,
    preParsing: gunzip,
    validatorCompiler: () => validateBatch,
    schema: {
      operationId: 'sendBoundaryLogs',
      summary: 'Send a batch of boundary logs',
      description:
        'An answer that is not 2xx counted nothing, so the batch may be sent again; but for 504, ' +
        'after which it may be counted twice. ' +
        'The body may be compressed with gzip.',
      tags: ['agent'],
      security: [{ agent: [] }],
      body: ref(BatchSchema),
      response: responses(202, ref(AcceptedSchema), 'Counted.', 400, 401, 403, 408, 413, 415, 429, 503, 504),
    },
    onResponse: async (_request, reply) => {
      metrics.batches.inc({ result: RESULTS[reply.statusCode] ?? 'failed' })
    },
    handler: async (request, reply) => {
      const { workspaceId, ownerId } = whose(request.body, request.identity)
      const { allowed, denied, skipped } = count(request.body)
      if (allowed + denied > 0) await usage.count(workspaceId, ownerId, allowed, denied)
      metrics.logs.inc({ decision: 'allow' }, allowed)
      metrics.logs.inc({ decision: 'deny' }, denied)
      metrics.logs.inc({ decision: 'skipped' }, skipped)
      return reply.code(202).send({ allowed, denied, skipped })
    },
  })
}

function count(batch: Batch): Static<typeof AcceptedSchema> {
  let allowed = 0
  let denied = 0
  for (const log of batch.logs) {
    if (log.http_request === undefined) continue
    if (log.allowed) allowed++
    else denied++
  }
  return { allowed, denied, skipped: batch.logs.length - allowed - denied }
}

/** The ids that the batch counts for, in lower case: the JWT's if there is one, and then the body may not differ. */
function whose(batch: Batch, identity: Identity | null): Identity {
  const workspaceId = batch.workspace_id?.toLowerCase() ?? identity?.workspaceId
  const ownerId = batch.owner_id?.toLowerCase() ?? identity?.ownerId
  if (workspaceId === undefined) throw new InvalidBody("body must have required property 'workspace_id'")
  if (ownerId === undefined) throw new InvalidBody("body must have required property 'owner_id'")
  if (identity && identity.workspaceId !== workspaceId)
    throw new Forbidden(
      'body/workspace_id is not the workspace that the JWT speaks for: leave it out or match it',
    )
  if (identity && identity.ownerId !== ownerId)
    throw new Forbidden('body/owner_id is not the owner that the JWT speaks for: leave it out or match it')
  return { workspaceId, ownerId }
}

/**
 * Unpacks a gzip body as it arrives. Fastify holds what comes out to the body limit, so a bomb is refused after
 * that many bytes, however much is still packed in it.
 */
async function gunzip(
  request: FastifyRequest,
  _reply: unknown,
  payload: RequestPayload,
): Promise<RequestPayload> {
  const encoding = request.headers['content-encoding']?.trim().toLowerCase()
  if (encoding === undefined || encoding === 'identity') return payload
  if (encoding !== 'gzip' && encoding !== 'x-gzip') throw new UnsupportedEncoding(JSON.stringify(encoding))

  const unpacked = Object.assign(createGunzip(), { receivedEncodedLength: 0 })
  payload.on('data', (chunk: Buffer) => {
    unpacked.receivedEncodedLength += chunk.length
  })
  payload.on('error', (error) => unpacked.destroy(error))
  unpacked.on('error', (error) => {
    const { code, statusCode, message } = new InvalidGzip(error.message)
    Object.assign(error, { code, statusCode, message })
  })
  // Not pipeline(): that would close the connection before a refusal could be answered.
  return payload.pipe(unpacked)
}
