// What a batch says, in JSON or protobuf: whose it is, and how many logs it counts.

import type { Static } from '@sinclair/typebox'
import { Ajv } from 'ajv'
import type { FastifyRequest } from 'fastify'
import type { Identity } from '../http/auth.js'
import { Forbidden, InvalidBody, InvalidJson, InvalidProtobuf } from '../http/errors.js'
import { addFormats, UUID } from '../http/formats.js'
import { countWire, type WireBatch, WireError } from './protobuf.js'
import { type AcceptedSchema, BatchSchema, MAX_LOGS } from './schemas.js'

type JsonBatch = Static<typeof BatchSchema>
type Counts = Static<typeof AcceptedSchema>

/** Without the coercion of Fastify's own validator: "true" is no boolean here. */
const ajv = addFormats(new Ajv())
const validate = ajv.compile<JsonBatch>(BatchSchema)

const BYTE_ORDER_MARK = '\uFEFF'

/**
 * Reads a JSON body; throws a refusal that says what is wrong with it. Batches are read by name, never copied or
 * merged: keys that could poison a prototype are fields to ignore.
 */
export function parseJson(text: string): JsonBatch {
  let body: unknown
  try {
    body = JSON.parse(text.startsWith(BYTE_ORDER_MARK) ? text.slice(1) : text)
  } catch (error) {
    throw new InvalidJson((error as SyntaxError).message)
  }
  if (validate(body)) return body
  throw new InvalidBody(ajv.errorsText(validate.errors, { dataVar: 'body' }))
}

/** Reads a protobuf body; throws a refusal that says what is wrong with it. */
export function parseProtobuf(body: Buffer): WireBatch {
  let batch: WireBatch
  try {
    batch = countWire(body)
  } catch (error) {
    throw error instanceof WireError ? new InvalidProtobuf(error.message) : error
  }
  if (batch.allowed + batch.denied + batch.skipped > MAX_LOGS)
    throw new InvalidBody(`body/logs must NOT have more than ${MAX_LOGS} items`)
  if (batch.sessionId !== '' && !UUID.test(batch.sessionId))
    throw new InvalidBody('body/session_id must match format "uuid"')
  return batch
}

/** What parseJson() or parseProtobuf() has made of a body; undefined if there was none. */
export type BatchBody = JsonBatch | WireBatch | undefined

/**
 * The ids that a batch counts for, and its counts. Throws a refusal if it does not say whose it is, or says otherwise
 * than the JWT.
 */
export function readBatch(request: FastifyRequest, body: BatchBody): { ids: Identity; counts: Counts } {
  if (body === undefined) throw new InvalidBody('body must be object')
  if ('logs' in body)
    return {
      ids: identify(request.identity, {
        workspaceId: { value: body.workspace_id, name: 'body/workspace_id' },
        ownerId: { value: body.owner_id, name: 'body/owner_id' },
      }),
      counts: countJson(body),
    }
  const { allowed, denied, skipped } = body
  return {
    ids: identify(request.identity, {
      workspaceId: fromHeader(request, 'X-Workspace-Id'),
      ownerId: fromHeader(request, 'X-Owner-Id'),
    }),
    counts: { allowed, denied, skipped },
  }
}

function countJson({ logs }: JsonBatch): Counts {
  let allowed = 0
  let denied = 0
  for (const log of logs) {
    if (log.http_request === undefined) continue
    if (log.allowed) allowed++
    else denied++
  }
  return { allowed, denied, skipped: logs.length - allowed - denied }
}

/** An id that a batch gives, and where it does. */
interface GivenId {
  value: string | undefined
  name: string
}

function fromHeader(request: FastifyRequest, name: string): GivenId {
  const value = request.headers[name.toLowerCase()]
  if (value !== undefined && !(typeof value === 'string' && UUID.test(value)))
    throw new InvalidBody(`header ${name} must be a UUID`)
  return { value, name: `header ${name}` }
}

/** In lower case: the JWT's ids if there is one, and then those given may not differ. */
function identify(identity: Identity | null, given: Record<keyof Identity, GivenId>): Identity {
  const { workspaceId, ownerId } = given
  return {
    workspaceId: settle(workspaceId, identity?.workspaceId, 'workspace'),
    ownerId: settle(ownerId, identity?.ownerId, 'owner'),
  }
}

function settle({ value, name }: GivenId, spokenFor: string | undefined, what: string): string {
  const id = value?.toLowerCase() ?? spokenFor
  if (id === undefined) throw new InvalidBody(missing(name))
  if (spokenFor !== undefined && id !== spokenFor)
    throw new Forbidden(`${name} is not the ${what} that the JWT speaks for: leave it out or match it`)
  return id
}

function missing(name: string): string {
  const property = /^body\/(.*)/.exec(name)?.[1]
  return property === undefined
    ? `${name} is needed with protobuf`
    : `body must have required property '${property}'`
}
