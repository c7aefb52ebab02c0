// What one POST says, in JSON or protobuf, and whose logs they are.

import type { IncomingHttpHeaders } from 'node:http'
import { Forbidden, InvalidBody } from '../http/errors.js'
import { UUID } from '../http/formats.js'
import { readJson } from './json.js'
import { readProtobuf } from './protobuf.js'
import type { Runs } from './runs.js'

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
  /** The sequence numbers; only with a session. */
  numbers: Runs | undefined
}

/** The workspace and the owner of a batch, in lower case. */
export interface Ids {
  workspaceId: string
  ownerId: string
}

/** An id in a request, and the name of its field or header. */
interface GivenId {
  value: string | undefined
  name: string
}

/** A batch and the ids that its request gives. */
export interface ReceivedBatch {
  batch: Batch
  given: Record<keyof Ids, GivenId>
}

export function receiveJson(body: Buffer): ReceivedBatch {
  const batch = readJson(body)
  return {
    batch,
    given: {
      workspaceId: { value: batch.workspaceId, name: '/workspace_id' },
      ownerId: { value: batch.ownerId, name: '/owner_id' },
    },
  }
}

export function receiveProtobuf(body: Buffer, headers: IncomingHttpHeaders): ReceivedBatch {
  return {
    batch: readProtobuf(body),
    given: {
      workspaceId: fromHeader(headers, 'X-Workspace-Id'),
      ownerId: fromHeader(headers, 'X-Owner-Id'),
    },
  }
}

function fromHeader(headers: IncomingHttpHeaders, name: string): GivenId {
  const value = headers[name.toLowerCase()]
  if (value !== undefined && !(typeof value === 'string' && UUID.test(value)))
    throw new InvalidBody(`header ${name} must be a UUID`)
  return { value: value?.toLowerCase(), name: `header ${name}` }
}

/** With a JWT, its ids: those of the batch may be omitted, but must not differ. */
export function identify(identity: Ids | null, given: Record<keyof Ids, GivenId>): Ids {
  const { workspaceId, ownerId } = given
  return {
    workspaceId: resolveId(workspaceId, identity?.workspaceId, 'workspace'),
    ownerId: resolveId(ownerId, identity?.ownerId, 'owner'),
  }
}

function resolveId({ value, name }: GivenId, jwtId: string | undefined, what: string): string {
  const id = value ?? jwtId
  if (id === undefined) throw new InvalidBody(`${name} is required`)
  if (jwtId !== undefined && id !== jwtId)
    throw new Forbidden(`${name} is not the ${what} of the JWT: omit it or use the same id`)
  return id
}
