// Parses a batch, from JSON or protobuf, into the ids and counts that it contains.

import type { IncomingHttpHeaders } from 'node:http'
import type { Static } from '@sinclair/typebox'
import { Ajv } from 'ajv'
import { Forbidden, InvalidBody, InvalidJson, InvalidProtobuf } from '../http/errors.js'
import { addFormats, UUID } from '../http/formats.js'
import { countWire, type WireBatch, WireError } from './protobuf.js'
import { type AcceptedSchema, BatchSchema, MAX_LOGS } from './schemas.js'

/** What one POST says, whatever its encoding. */
export interface Batch {
  /** In lower case; undefined if the body does not give it (protobuf never does: headers carry them). */
  workspaceId: string | undefined
  ownerId: string | undefined
  /** In lower case; undefined if there is none. */
  sessionId: string | undefined
  allowed: number
  denied: number
  skipped: number
  /**
   * Only with a session: the sequence numbers by decision, each as ascending, disjoint, non-adjacent runs, flat:
   * [first, end, first, end, ...), end exclusive.
   */
  numbers: { allowed: number[]; denied: number[]; skipped: number[] } | undefined
}

type JsonBatch = Static<typeof BatchSchema>
type Counts = Static<typeof AcceptedSchema>

/** Not Fastify's own validator, which would coerce "true" to a boolean. */
const ajv = addFormats(new Ajv())
const validate = ajv.compile<JsonBatch>(BatchSchema)

const BYTE_ORDER_MARK = '\uFEFF'

/**
 * Parses a JSON body, or throws an error for the client. Its members are only read by name, never copied or merged, so
 * keys such as `__proto__` are harmless.
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

/** Parses a protobuf body, or throws an error for the client. */
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

/** The result of parseJson() or parseProtobuf(); undefined if there is no body. */
export type BatchBody = JsonBatch | WireBatch | undefined

/** The workspace and the owner of a batch, in lower case. */
export interface Ids {
  workspaceId: string
  ownerId: string
}

/** The parts of a request that identify the sender of its batch. */
interface Sender {
  headers: IncomingHttpHeaders
  /** The ids of its JWT, if it has one. */
  identity: Ids | null
}

/** The ids and counts of a batch. Throws if it has no ids, or others than the JWT. */
export function readBatch(sender: Sender, body: BatchBody): { ids: Ids; counts: Counts } {
  if (body === undefined) throw new InvalidBody('body must be object')
  if ('logs' in body)
    return {
      ids: identify(sender.identity, {
        workspaceId: { value: body.workspace_id, name: 'body/workspace_id' },
        ownerId: { value: body.owner_id, name: 'body/owner_id' },
      }),
      counts: countJson(body),
    }
  const { allowed, denied, skipped } = body
  return {
    ids: identify(sender.identity, {
      workspaceId: fromHeader(sender.headers, 'X-Workspace-Id'),
      ownerId: fromHeader(sender.headers, 'X-Owner-Id'),
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

/** An id in a batch, and the name of its field or header. */
interface GivenId {
  value: string | undefined
  name: string
}

function fromHeader(headers: IncomingHttpHeaders, name: string): GivenId {
  const value = headers[name.toLowerCase()]
  if (value !== undefined && !(typeof value === 'string' && UUID.test(value)))
    throw new InvalidBody(`header ${name} must be a UUID`)
  return { value, name: `header ${name}` }
}

/** With a JWT, its ids: those of the batch may be omitted, but must not differ. */
function identify(identity: Ids | null, given: Record<keyof Ids, GivenId>): Ids {
  const { workspaceId, ownerId } = given
  return {
    workspaceId: resolveId(workspaceId, identity?.workspaceId, 'workspace'),
    ownerId: resolveId(ownerId, identity?.ownerId, 'owner'),
  }
}

function resolveId({ value, name }: GivenId, jwtId: string | undefined, what: string): string {
  const id = value?.toLowerCase() ?? jwtId
  if (id === undefined) throw new InvalidBody(missing(name))
  if (jwtId !== undefined && id !== jwtId)
    throw new Forbidden(`${name} is not the ${what} of the JWT: omit it or use the same id`)
  return id
}

function missing(name: string): string {
  const property = /^body\/(.*)/.exec(name)?.[1]
  return property === undefined
    ? `${name} is required with protobuf`
    : `body must have required property '${property}'`
}
