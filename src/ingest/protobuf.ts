// Counts a batch in protobuf straight from its bytes, and builds no strings for it: openapi/boundary-logs.proto.
// The wire format: https://protobuf.dev/programming-guides/encoding/

import { isUtf8 } from 'node:buffer'

/** What a batch on the wire comes to. `skipped` logs carry no resource that this version knows. */
export interface WireBatch {
  allowed: number
  denied: number
  skipped: number
  /** Empty if it was left out. */
  sessionId: string
}

/** Bytes that are no such message; the message says where. */
export class WireError extends Error {
  override name = 'WireError'
}

/** A field's number and wire type, as they stand on the wire. */
const BATCH = { logs: tag(1, 2), sessionId: tag(2, 2), confinedProcessName: tag(3, 2) }
const LOG = { allowed: tag(1, 0), time: tag(2, 2), httpRequest: tag(3, 2) }
const HTTP_REQUEST = { method: tag(1, 2), url: tag(2, 2), matchedRule: tag(3, 2) }
const MAX_GROUP_DEPTH = 100

function tag(field: number, wireType: number): number {
  return field * 8 + wireType
}

/**
 * Reads a whole message, or throws WireError. As every parser of proto3 must, it refuses what ends too early, tags
 * and varints that cannot be, and strings that are not UTF-8; skips fields it does not know, also those of a known
 * number with another wire type; and lets the last of several values stand.
 */
export function countWire(bytes: Uint8Array): WireBatch {
  return new Wire(bytes).batch()
}

/** One pass from front to back. Every method reads at `#at` and moves it on; none reads at or past its `end`. */
class Wire {
  #at = 0
  /** Index of the log being read, for messages. */
  #log = -1
  readonly #bytes: Uint8Array
  readonly #view: DataView

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  batch(): WireBatch {
    const end = this.#bytes.length
    const batch = { allowed: 0, denied: 0, skipped: 0, sessionId: '' }
    while (this.#at < end) {
      const tag = this.#tag(end)
      if (tag === BATCH.logs) this.#countLog(this.#length(end), batch)
      else if (tag === BATCH.sessionId) {
        const start = this.#string(end)
        batch.sessionId = Buffer.from(this.#bytes.subarray(start, this.#at)).toString()
      } else if (tag === BATCH.confinedProcessName) this.#string(end)
      else this.#skip(tag, end)
    }
    return batch
  }

  #countLog(end: number, counts: WireBatch): void {
    this.#log++
    let allowed = false
    let hasResource = false
    while (this.#at < end) {
      const tag = this.#tag(end)
      if (tag === LOG.allowed) allowed = this.#varint(end) !== 0
      else if (tag === LOG.httpRequest) {
        this.#httpRequest(this.#length(end))
        hasResource = true
      } else if (tag === LOG.time) this.#timestamp(this.#length(end))
      else this.#skip(tag, end)
    }
    if (!hasResource) counts.skipped++
    else if (allowed) counts.allowed++
    else counts.denied++
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
    const start = this.#at
    const tag = this.#varint(end)
    if (tag < 8 || tag > 0xff_ff_ff_ff || this.#at - start > 5) this.#fail('a tag that names no field')
    return tag
  }

  /** Of 64 bits; exact up to 2^53, and never zero if any bit is set: lengths and booleans need no more. */
  #varint(end: number): number {
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
      bits |= view.getInt32(at) | view.getInt32(at + 4) | view.getInt32(at + 8) | view.getInt32(at + 12)
    for (; at + 4 <= stop; at += 4) bits |= view.getInt32(at)
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
    throw new WireError(
      `${what}, before byte ${this.#at}${this.#log < 0 ? '' : ` in or after logs/${this.#log}`}`,
    )
  }
}
