// What a batch says, in JSON or protobuf: whose it is, and how many logs it counts.

import type { IncomingHttpHeaders } from 'node:http'
import type { Static } from '@sinclair/typebox'
import { Ajv } from 'ajv'
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

/** Whose logs a batch contains. In lower case. */
export interface Ids {
  workspaceId: string
  ownerId: string
}

/** What else a request says about its batch. */
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

/** An id that a batch gives, and where it does. */
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

function resolveId({ value, name }: GivenId, spokenFor: string | undefined, what: string): string {
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
