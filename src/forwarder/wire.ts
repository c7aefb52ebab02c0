// Takes the logs out of a message without decoding them, and makes batches of them: openapi/boundary-logs.proto.

import { tagOf, WireReader } from '../wire.js'
import { TAG } from './frames.js'

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

/** Fields by their tags on the wire. */
const ENVELOPE = { batch: tagOf(1, 2), status: tagOf(2, 2) }
const STATUS = { queueFull: tagOf(1, 0), batchFull: tagOf(2, 0) }
const BATCH = { logs: tagOf(1, 2), sessionId: tagOf(2, 2) }
const LOG = { number: tagOf(4, 0) }
/** The largest number that the field holds. */
export const MAX_NUMBER = 2 ** 31 - 1

/** Reads the message of a frame; throws WireError if it is none. */
export function readMessage(tag: number, bytes: Buffer): Message {
  const message: Message = { logs: [], sessionId: '', droppedByBoundary: { queueFull: 0, batchFull: 0 } }
  const reader = new WireReader(bytes)
  if (tag === TAG.batch) readBatch(reader, bytes.length, message)
  else readEnvelope(reader, bytes.length, message)
  return message
}

/** Reads logs that follow each other as in a batch. */
export function readLogs(bytes: Buffer): Log[] {
  return readMessage(TAG.batch, bytes).logs
}

function readEnvelope(reader: WireReader, end: number, message: Message): void {
  while (reader.at < end) {
    const tag = reader.tag(end)
    if (tag === ENVELOPE.batch) readBatch(reader, reader.length(end), message)
    else if (tag === ENVELOPE.status) readStatus(reader, reader.length(end), message)
    else reader.skip(tag, end)
  }
}

function readStatus(reader: WireReader, end: number, { droppedByBoundary }: Message): void {
  while (reader.at < end) {
    const tag = reader.tag(end)
    if (tag === STATUS.queueFull) droppedByBoundary.queueFull = reader.varint(end)
    else if (tag === STATUS.batchFull) droppedByBoundary.batchFull = reader.varint(end)
    else reader.skip(tag, end)
  }
}

function readBatch(reader: WireReader, end: number, message: Message): void {
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
function readNumber(reader: WireReader, end: number): number {
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
  const reader = new WireReader(log.bytes)
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
