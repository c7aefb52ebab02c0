// The wire format of protobuf, read by the service and by the forwarder.
// https://protobuf.dev/programming-guides/encoding/

import { isUtf8 } from 'node:buffer'

/** Bytes that are no message. */
export class WireError extends Error {
  override name = 'WireError'
}

const MAX_GROUP_DEPTH = 100

/** A field's number and wire type, as they stand on the wire. */
export function tagOf(field: number, wireType: number): number {
  return field * 8 + wireType
}

/**
 * One pass over bytes, from front to back. Every method reads at `at` and moves it on; none reads at or past its `end`.
 * As every parser must, it rejects what ends too early, and tags and varints that cannot be.
 */
export class WireReader {
  at = 0
  readonly #bytes: Buffer
  readonly #view: DataView

  constructor(bytes: Buffer) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  /** What has been read since `start`. */
  since(start: number): Buffer {
    return this.#bytes.subarray(start, this.at)
  }

  tag(end: number): number {
    // Those of known fields have one byte.
    const first = this.at < end ? (this.#bytes[this.at] ?? 0) : 0
    if (first >= 8 && first < 0x80) {
      this.at++
      return first
    }
    return this.#otherTag(end)
  }

  #otherTag(end: number): number {
    const start = this.at
    const tag = this.varint(end)
    if (tag < 8 || tag > 0xff_ff_ff_ff || this.at - start > 5) fail('a tag that names no field')
    return tag
  }

  /** Of 64 bits, unsigned: exact up to 2^53, and more than that if it is more, or negative as an int64. */
  varint(end: number): number {
    // Nearly all have one byte or two.
    const first = this.at < end ? (this.#bytes[this.at] ?? 0) : 0x80
    if (first < 0x80) {
      this.at++
      return first
    }
    const second = this.at + 1 < end ? (this.#bytes[this.at + 1] ?? 0) : 0x80
    if (second < 0x80) {
      this.at += 2
      return (first & 0x7f) | (second << 7)
    }
    return this.#longVarint(end)
  }

  #longVarint(end: number): number {
    let value = 0
    for (let scale = 1; this.at < end; scale *= 128) {
      const byte = this.#bytes[this.at++] ?? 0
      if (scale === 2 ** 63) {
        if (byte >= 0x80) fail('a varint of more than ten bytes')
        return value + (byte & 1) * scale
      }
      value += (byte & 0x7f) * scale
      if (byte < 0x80) return value
    }
    return fail('an end in the middle of a varint')
  }

  /** The low 32 bits of a varint, signed. */
  int32(end: number): number {
    const start = this.at
    this.varint(end)
    let value = 0
    for (let at = start, shift = 0; at < this.at && shift < 32; at++, shift += 7)
      value |= ((this.#bytes[at] ?? 0) & 0x7f) << shift
    return value
  }

  /** The length of what follows; returns where that ends. */
  length(end: number): number {
    const length = this.varint(end)
    if (length > end - this.at) fail('a length that reaches past the end')
    return this.at + length
  }

  /** Returns where it started. */
  string(end: number): number {
    const stop = this.length(end)
    const start = this.at
    if (!this.#isAscii(start, stop) && !isUtf8(this.#bytes.subarray(start, stop)))
      fail('a string that is not UTF-8')
    this.at = stop
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

  /** Skips the content of a field. */
  skip(tag: number, end: number, depth = 0): void {
    const wireType = tag & 7
    if (wireType === 0) this.#skipVarint(end)
    else if (wireType === 1) this.#advance(8, end)
    else if (wireType === 2) this.at = this.length(end)
    else if (wireType === 3) this.#skipGroup(tag + 1, end, depth + 1)
    else if (wireType === 5) this.#advance(4, end)
    else fail('a wire type that cannot be here')
  }

  #skipVarint(end: number): void {
    const tenth = this.at + 9
    while (this.at < end) {
      const byte = this.#bytes[this.at++] ?? 0
      if (byte < 0x80) return
      if (this.at > tenth) fail('a varint of more than ten bytes')
    }
    fail('an end in the middle of a varint')
  }

  #skipGroup(endTag: number, end: number, depth: number): void {
    if (depth > MAX_GROUP_DEPTH) fail('groups nested too deeply')
    for (let tag = this.tag(end); tag !== endTag; tag = this.tag(end)) this.skip(tag, end, depth)
  }

  #advance(count: number, end: number): void {
    if (count > end - this.at) fail('an end in the middle of a field')
    this.at += count
  }
}

/** One for each message: to record a stack takes longer than all else that a short frame without meaning costs. */
const errors = new Map<string, WireError>()

function fail(what: string): never {
  const error = errors.get(what) ?? new WireError(what)
  errors.set(what, error)
  throw error
}
