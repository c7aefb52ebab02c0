// Reads a batch in protobuf straight from its bytes, and builds no string but the session's id.
// The message: openapi/boundary-logs.proto. The wire format: https://protobuf.dev/programming-guides/encoding/

import { isUtf8 } from 'node:buffer'
import { InvalidBody, InvalidProtobuf } from '../http/errors.js'
import type { Batch } from './batch.js'
import { Tally } from './tally.js'
import { uuidAt } from './uuid.js'

/** A field's number and wire type, as they stand on the wire. */
const BATCH = { logs: tag(1, 2), sessionId: tag(2, 2), confinedProcessName: tag(3, 2) }
const LOG = { allowed: tag(1, 0), time: tag(2, 2), httpRequest: tag(3, 2), sequenceNumber: tag(4, 0) }
const HTTP_REQUEST = { method: tag(1, 2), url: tag(2, 2), matchedRule: tag(3, 2) }
const MAX_GROUP_DEPTH = 100

function tag(field: number, wireType: number): number {
  return field * 8 + wireType
}

/** Shared by all bodies, because each is read without a pause. */
const tally = new Tally()

/**
 * Reads a whole message. Throws InvalidProtobuf where it is not one, and InvalidBody where it is not a batch. As every
 * parser of proto3 must, it refuses what ends too early, tags and varints that cannot be, and strings that are not
 * UTF-8; skips fields it does not know, also those of a known number with another wire type; and lets the last of
 * several values stand.
 */
export function readProtobuf(body: Buffer): Batch {
  return new ProtobufReader(body).batch()
}

/** One pass from front to back. Every method reads at `#at` and moves it on; none reads at or past its `end`. */
class ProtobufReader {
  #at = 0
  readonly #bytes: Buffer
  readonly #view: DataView

  constructor(bytes: Buffer) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    tally.reset()
  }

  batch(): Batch {
    const end = this.#bytes.length
    let sessionStart = 0
    let sessionEnd = 0
    while (this.#at < end) {
      const tag = this.#tag(end)
      if (tag === BATCH.logs) this.#log(this.#length(end))
      else if (tag === BATCH.sessionId) {
        sessionStart = this.#string(end)
        sessionEnd = this.#at
      } else if (tag === BATCH.confinedProcessName) this.#string(end)
      else this.#skip(tag, end)
    }
    let sessionId: string | undefined
    if (sessionEnd > sessionStart) {
      sessionId = uuidAt(this.#bytes, sessionStart, sessionEnd)
      if (sessionId === undefined) throw new InvalidBody('/session_id must be a UUID')
    }
    return tally.batch({ workspaceId: undefined, ownerId: undefined, sessionId })
  }

  #log(end: number): void {
    let isAllowed = false
    let hasResource = false
    let sequenceNumber = 0
    while (this.#at < end) {
      const tag = this.#tag(end)
      if (tag === LOG.allowed) isAllowed = this.#varint(end) !== 0
      else if (tag === LOG.sequenceNumber) sequenceNumber = this.#varint(end)
      else if (tag === LOG.httpRequest) {
        this.#httpRequest(this.#length(end))
        hasResource = true
      } else if (tag === LOG.time) this.#timestamp(this.#length(end))
      else this.#skip(tag, end)
    }
    tally.add(hasResource, isAllowed, sequenceNumber)
  }

  #httpRequest(end: number): void {
    while (this.#at < end) {
      const tag = this.#tag(end)
      if (tag === HTTP_REQUEST.method || tag === HTTP_REQUEST.url || tag === HTTP_REQUEST.matchedRule)
        this.#string(end)
      else this.#skip(tag, end)
    }
  }

  #timestamp(end: number): void {
    while (this.#at < end) this.#skip(this.#tag(end), end)
  }

  #tag(end: number): number {
    // Those of this message have one byte.
    const first = this.#at < end ? (this.#bytes[this.#at] ?? 0) : 0
    if (first >= 8 && first < 0x80) {
      this.#at++
      return first
    }
    return this.#otherTag(end)
  }

  #otherTag(end: number): number {
    const start = this.#at
    const tag = this.#varint(end)
    if (tag < 8 || tag > 0xff_ff_ff_ff || this.#at - start > 5) this.#fail('a tag that names no field')
    return tag
  }

  /** Of 64 bits, unsigned: exact up to 2^53, and more than that if it is more, or negative as an int64. */
  #varint(end: number): number {
    // Nearly all have one byte or two.
    const first = this.#at < end ? (this.#bytes[this.#at] ?? 0) : 0x80
    if (first < 0x80) {
      this.#at++
      return first
    }
    const second = this.#at + 1 < end ? (this.#bytes[this.#at + 1] ?? 0) : 0x80
    if (second < 0x80) {
      this.#at += 2
      return (first & 0x7f) | (second << 7)
    }
    return this.#longVarint(end)
  }

  #longVarint(end: number): number {
    let value = 0
    for (let scale = 1; this.#at < end; scale *= 128) {
      const byte = this.#bytes[this.#at++] ?? 0
      if (scale === 2 ** 63) {
        if (byte >= 0x80) this.#fail('a varint of more than ten bytes')
        return value + (byte & 1) * scale
      }
      value += (byte & 0x7f) * scale
      if (byte < 0x80) return value
    }
    return this.#fail('an end in the middle of a varint')
  }

  #skipVarint(end: number): void {
    const tenth = this.#at + 9
    while (this.#at < end) {
      const byte = this.#bytes[this.#at++] ?? 0
      if (byte < 0x80) return
      if (this.#at > tenth) this.#fail('a varint of more than ten bytes')
    }
    this.#fail('an end in the middle of a varint')
  }

  /** The length of what follows; returns where that ends. */
  #length(end: number): number {
    const length = this.#varint(end)
    if (length > end - this.#at) this.#fail('a length that reaches past the end')
    return this.#at + length
  }

  /** Returns where it started. */
  #string(end: number): number {
    const stop = this.#length(end)
    const start = this.#at
    if (!this.#isAscii(start, stop) && !isUtf8(this.#bytes.subarray(start, stop)))
      this.#fail('a string that is not UTF-8')
    this.#at = stop
    return start
  }

  /** Most strings are, and to call out of JavaScript for each would take longer than this does. */
  #isAscii(start: number, stop: number): boolean {
    const view = this.#view
    let bits = 0
    let at = start
    for (; at + 16 <= stop; at += 16)
      bits |=
        view.getInt32(at, true) |
        view.getInt32(at + 4, true) |
        view.getInt32(at + 8, true) |
        view.getInt32(at + 12, true)
    for (; at + 4 <= stop; at += 4) bits |= view.getInt32(at, true)
    for (; at < stop; at++) bits |= this.#bytes[at] ?? 0
    return (bits & 0x80_80_80_80) === 0
  }

  #skip(tag: number, end: number, depth = 0): void {
    const wireType = tag & 7
    if (wireType === 0) this.#skipVarint(end)
    else if (wireType === 1) this.#advance(8, end)
    else if (wireType === 2) this.#at = this.#length(end)
    else if (wireType === 3) this.#skipGroup(tag + 1, end, depth + 1)
    else if (wireType === 5) this.#advance(4, end)
    else this.#fail('a wire type that cannot be here')
  }

  #skipGroup(endTag: number, end: number, depth: number): void {
    if (depth > MAX_GROUP_DEPTH) this.#fail('groups nested too deeply')
    for (;;) {
      const tag = this.#tag(end)
      if (tag === endTag) return
      this.#skip(tag, end, depth)
    }
  }

  #advance(count: number, end: number): void {
    if (count > end - this.#at) this.#fail('an end in the middle of a field')
    this.#at += count
  }

  #fail(what: string): never {
    const place = tally.length === 0 ? '' : `, after ${tally.length} logs`
    throw new InvalidProtobuf(`${what}, before byte ${this.#at}${place}`)
  }
}
