// The records of a spool segment, as bytes. A record is a marker, the length and the CRC-32 of its content, and the
// content. After damage, reading goes on at the next marker whose record is whole.

import { crc32 } from 'node:zlib'
import { WireError } from '../wire.js'
import { type Ids, UUID } from './credentials.js'
import type { Entry } from './store.js'
import { readLogs } from './wire.js'

const VERSION = 1
const MARKER = Buffer.from('BUsp')
const RECORD_HEADER_BYTES = 12
/** What a record has before its logs: a time and a session id. */
const ENTRY_HEADER_BYTES = 44
/** Longer than any record that is written: a frame's logs with a number each. */
const MAX_RECORD_BYTES = 256 * 1024

/** What an entry takes on disk, dropped logs included. */
export function sizeOf(entry: Entry): number {
  return entry.lengths.reduce(
    (sum, length) => sum + Math.abs(length),
    RECORD_HEADER_BYTES + ENTRY_HEADER_BYTES,
  )
}

/** The first record of a segment. */
export function headerRecord(ids: Ids): Buffer {
  return recordOf(Buffer.from(JSON.stringify({ version: VERSION, ...ids })))
}

/** The logs in the content of an entry's record. */
export function logsOf(content: Buffer): Buffer {
  return content.subarray(ENTRY_HEADER_BYTES)
}

export function toRecord(entry: Entry): Buffer {
  const header = Buffer.alloc(ENTRY_HEADER_BYTES)
  header.writeDoubleBE(entry.time)
  header.write(entry.session.id, 8, 'latin1')
  return recordOf(header, entry.payload ?? Buffer.alloc(0))
}

function recordOf(...parts: Buffer[]): Buffer {
  const content = Buffer.concat(parts)
  const header = Buffer.alloc(RECORD_HEADER_BYTES)
  MARKER.copy(header)
  header.writeUInt32BE(content.length, 4)
  header.writeUInt32BE(crc32(content), 8)
  return Buffer.concat([header, content])
}

/** The content of the record that begins there; undefined if there is no whole one. */
export function contentAt(bytes: Buffer, at: number): Buffer | undefined {
  const start = at + RECORD_HEADER_BYTES
  if (start > bytes.length || !bytes.subarray(at, at + MARKER.length).equals(MARKER)) return undefined
  const length = bytes.readUInt32BE(at + 4)
  if (length > MAX_RECORD_BYTES || start + length > bytes.length) return undefined
  const content = bytes.subarray(start, start + length)
  return crc32(content) === bytes.readUInt32BE(at + 8) ? content : undefined
}

interface FoundRecord {
  content: Buffer
  offset: number
  size: number
}

interface End {
  /** Places where something else than a whole record lay. */
  damaged: number
  /** The file ends within its first record. */
  isCutOff: boolean
}

/** Yields the whole records. */
export function* readRecords(bytes: Buffer): Generator<FoundRecord, End, void> {
  let damaged = 0
  for (let at = 0; at < bytes.length; ) {
    const content = contentAt(bytes, at)
    if (content === undefined) {
      damaged++
      do at = bytes.indexOf(MARKER, at + 1)
      while (at >= 0 && contentAt(bytes, at) === undefined)
      if (at < 0) break
      continue
    }
    const size = RECORD_HEADER_BYTES + content.length
    yield { content, offset: at, size }
    at += size
  }
  const isMarked = MARKER.subarray(0, bytes.length).equals(bytes.subarray(0, MARKER.length))
  const needed =
    bytes.length < RECORD_HEADER_BYTES ? RECORD_HEADER_BYTES : RECORD_HEADER_BYTES + bytes.readUInt32BE(4)
  return { damaged, isCutOff: isMarked && bytes.length < needed }
}

/** Throws if it is of another version, or none. */
export function readHeader(content: Buffer): Ids {
  const header: unknown = JSON.parse(content.toString())
  if (typeof header !== 'object' || header === null) throw new Error('its first record is damaged')
  const { version, workspaceId, ownerId } = header as Record<string, unknown>
  if (version !== VERSION) throw new Error(`its version is ${JSON.stringify(version)}`)
  if (
    typeof workspaceId !== 'string' ||
    typeof ownerId !== 'string' ||
    !UUID.test(workspaceId) ||
    !UUID.test(ownerId)
  )
    throw new Error('its first record names no ids')
  return { workspaceId, ownerId }
}

export function readEntry(content: Buffer) {
  if (content.length <= ENTRY_HEADER_BYTES) return undefined
  const sessionId = content.toString('latin1', 8, ENTRY_HEADER_BYTES)
  if (!UUID.test(sessionId)) return undefined
  try {
    const logs = readLogs(logsOf(content))
    return logs.length > 0 ? { time: content.readDoubleBE(), sessionId, logs } : undefined
  } catch (error) {
    if (error instanceof WireError) return undefined
    throw error
  }
}
