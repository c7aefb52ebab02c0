// Reads a batch in protobuf straight from its bytes, and builds no string but the session's id.
// The message: openapi/boundary-logs.proto.

import { InvalidBody, InvalidProtobuf } from '../http/errors.js'
import { tagOf, WireError, WireReader } from '../wire.js'
import type { Batch } from './batch.js'
import { Tally } from './tally.js'
import { uuidAt } from './uuid.js'

/** Fields by their tags on the wire. */
const BATCH = { logs: tagOf(1, 2), sessionId: tagOf(2, 2), confinedProcessName: tagOf(3, 2) }
const LOG = { allowed: tagOf(1, 0), time: tagOf(2, 2), httpRequest: tagOf(3, 2), sequenceNumber: tagOf(4, 0) }
const HTTP_REQUEST = { method: tagOf(1, 2), url: tagOf(2, 2), matchedRule: tagOf(3, 2) }

/** Shared by all bodies, because each is read without a pause. */
const tally = new Tally()

/**
 * Reads a whole message. Throws InvalidProtobuf where it is not one, and InvalidBody where it is not a batch. As every
 * parser of proto3 must, it also rejects strings that are not UTF-8; skips fields it does not know, also those of a known
 * number with another wire type; and lets the last of several values stand.
 */
export function readProtobuf(body: Buffer): Batch {
  const reader = new WireReader(body)
  tally.reset()
  try {
    return readBatch(reader, body)
  } catch (error) {
    if (!(error instanceof WireError)) throw error
    const place = tally.length === 0 ? '' : `, after ${tally.length} logs`
    throw new InvalidProtobuf(`${error.message}, before byte ${reader.at}${place}`)
  }
}

function readBatch(reader: WireReader, body: Buffer): Batch {
  const end = body.length
  let sessionStart = 0
  let sessionEnd = 0
  while (reader.at < end) {
    const tag = reader.tag(end)
    if (tag === BATCH.logs) readLog(reader, reader.length(end))
    else if (tag === BATCH.sessionId) {
      sessionStart = reader.string(end)
      sessionEnd = reader.at
    } else if (tag === BATCH.confinedProcessName) reader.string(end)
    else reader.skip(tag, end)
  }
  let sessionId: string | undefined
  if (sessionEnd > sessionStart) {
    sessionId = uuidAt(body, sessionStart, sessionEnd)
    if (sessionId === undefined) throw new InvalidBody('/session_id must be a UUID')
  }
  return tally.batch({ workspaceId: undefined, ownerId: undefined, sessionId })
}

function readLog(reader: WireReader, end: number): void {
  let isAllowed = false
  let hasResource = false
  let sequenceNumber = 0
  while (reader.at < end) {
    const tag = reader.tag(end)
    if (tag === LOG.allowed) isAllowed = reader.varint(end) !== 0
    else if (tag === LOG.sequenceNumber) sequenceNumber = reader.varint(end)
    else if (tag === LOG.httpRequest) {
      readRequest(reader, reader.length(end))
      hasResource = true
    } else if (tag === LOG.time) readTime(reader, reader.length(end))
    else reader.skip(tag, end)
  }
  tally.add(hasResource, isAllowed, sequenceNumber)
}

function readRequest(reader: WireReader, end: number): void {
  while (reader.at < end) {
    const tag = reader.tag(end)
    if (tag === HTTP_REQUEST.method || tag === HTTP_REQUEST.url || tag === HTTP_REQUEST.matchedRule)
      reader.string(end)
    else reader.skip(tag, end)
  }
}

function readTime(reader: WireReader, end: number): void {
  while (reader.at < end) reader.skip(reader.tag(end), end)
}
