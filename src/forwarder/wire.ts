// Takes the logs out of a message without decoding them, and makes batches of them: openapi/boundary-logs.proto.
// The wire format: https://protobuf.dev/programming-guides/encoding/

import { TAG } from './frames.js'

/** Bytes that are no such message. */
export class WireError extends Error {
  override name = 'WireError'
}

/** One log as it is in a batch: field tag, length and content. */
export interface Log {
  bytes: Buffer
  /** As an int32: what an omitted one means is 0. */
  number: number
}

export interface Message {
  logs: Log[]
  /** Empty if it was left out. */
  sessionId: string
  /** How many logs the boundary has dropped since its last message, by reason. */
  droppedByBoundary: { queueFull: number; batchFull: number }
}

/** Fields by their tags on the wire: number and wire type. */
const ENVELOPE = { batch: tagOf(1, 2), status: tagOf(2, 2) }
const STATUS = { queueFull: tagOf(1, 0), batchFull: tagOf(2, 0) }
const BATCH = { logs: tagOf(1, 2), sessionId: tagOf(2, 2) }
const LOG = { number: tagOf(4, 0) }
const MAX_GROUP_DEPTH = 100
/** The largest number that the field holds. */
export const MAX_NUMBER = 2 ** 31 - 1

function tagOf(field: number, wireType: number): number {
  return field * 8 + wireType
}

/** Reads the message of a frame; throws WireError if it is none. */
export function readMessage(tag: number, bytes: Buffer): Message {
  const message: Message = { logs: [], sessionId: '', droppedByBoundary: { queueFull: 0, batchFull: 0 } }
  const reader = new Reader(bytes)
  if (tag === TAG.batch) readBatch(reader, bytes.length, message)
  else readEnvelope(reader, bytes.length, message)
  return message
}

/** Reads logs that follow each other as in a batch. */
export function readLogs(bytes: Buffer): Log[] {
  return readMessage(TAG.batch, bytes).logs
}

function readEnvelope(reader: Reader, end: number, message: Message): void {
  while (reader.at < end) {
    const tag = reader.tag(end)
    if (tag === ENVELOPE.batch) readBatch(reader, reader.length(end), message)
    else if (tag === ENVELOPE.status) readStatus(reader, reader.length(end), message)
    else reader.skip(tag, end)
  }
}

function readStatus(reader: Reader, end: number, { droppedByBoundary }: Message): void {
  while (reader.at < end) {
    const tag = reader.tag(end)
    if (tag === STATUS.queueFull) droppedByBoundary.queueFull = reader.varint(end)
    else if (tag === STATUS.batchFull) droppedByBoundary.batchFull = reader.varint(end)
    else reader.skip(tag, end)
  }
}

function readBatch(reader: Reader, end: number, message: Message): void {
  while (reader.at < end) {
    const start = reader.at
    const tag = reader.tag(end)
    if (tag === BATCH.logs) {
      const number = readNumber(reader, reader.length(end))
      message.logs.push({ bytes: reader.since(start), number })
    } else if (tag === BATCH.sessionId) {
      const stop = reader.length(end)
      const text = reader.at
      reader.at = stop
      message.sessionId = reader.since(text).toString()
    } else reader.skip(tag, end)
  }
}

/** Reads a log to its end; returns its number. */
function readNumber(reader: Reader, end: number): number {
  let number = 0
  while (reader.at < end) {
    const tag = reader.tag(end)
    if (tag === LOG.number) number = reader.int32(end)
    else reader.skip(tag, end)
  }
  return number
}

/** Gives a log another number: of several values of a field the last one counts. */
export function numbered(log: Log, number: number): Log {
  const reader = new Reader(log.bytes)
  reader.tag(log.bytes.length)
  reader.length(log.bytes.length)
  const content = log.bytes.subarray(reader.at)
  const field = [LOG.number, ...varint(number)]
  const bytes = Buffer.concat([
    Buffer.from([BATCH.logs, ...varint(content.length + field.length)]),
    content,
    Buffer.from(field),
  ])
  return { bytes, number }
}

/** The bytes of a batch: logs of one session, and its id. */
export function batchOf(sessionId: string, logs: Buffer[]): Buffer {
  return Buffer.concat([...logs, Buffer.from([BATCH.sessionId, sessionId.length]), Buffer.from(sessionId)])
}

function varint(value: number): number[] {
  const bytes: number[] = []
  let rest = value
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest & 0x7f) | 0x80)
  return [...bytes, rest]
}

/** One pass from front to back. Every method reads at `at` and moves it on; none reads at or past its `end`. */
class Reader {
  at = 0
  readonly #bytes: Buffer

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  since(start: number): Buffer {
    return this.#bytes.subarray(start, this.at)
  }

  tag(end: number): number {
    const tag = this.varint(end)
    if (tag < 8 || tag > 0xff_ff_ff_ff) throw new WireError('a tag that names no field')
    return tag
  }

  /** Returns where the content that follows ends. */
  length(end: number): number {
    const length = this.varint(end)
    if (length > end - this.at) throw new WireError('a length that reaches past the end')
    return this.at + length
  }

  /** Of 64 bits; exact up to 2^53. */
  varint(end: number): number {
    let value = 0
    for (let scale = 1; this.at < end; scale *= 128) {
      const byte = this.#bytes[this.at++] ?? 0
      if (scale === 2 ** 63 && byte > 1) throw new WireError('a varint of more than 64 bits')
      value += (byte & 0x7f) * scale
      if (byte < 0x80) return value
    }
    throw new WireError('an end in the middle of a varint')
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

  skip(tag: number, end: number, depth = 0): void {
    const wireType = tag & 7
    if (wireType === 0) this.varint(end)
    else if (wireType === 1) this.#advance(8, end)
    else if (wireType === 2) this.at = this.length(end)
    else if (wireType === 3 && depth < MAX_GROUP_DEPTH) this.#skipGroup(tag + 1, end, depth + 1)
    else if (wireType === 5) this.#advance(4, end)
    else throw new WireError('a wire type that cannot be here')
  }

  #skipGroup(endTag: number, end: number, depth: number): void {
    for (let tag = this.tag(end); tag !== endTag; tag = this.tag(end)) this.skip(tag, end, depth)
  }

  #advance(count: number, end: number): void {
    if (count > end - this.at) throw new WireError('an end in the middle of a field')
    this.at += count
  }
}
