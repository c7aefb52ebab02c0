// The published .proto in the hands of a well-kept library: encodes what agents send, and says what bytes mean.

import { fileURLToPath } from 'node:url'
import protobuf from 'protobufjs'

const PROTO = fileURLToPath(new URL('../../openapi/boundary-logs.proto', import.meta.url))
const root = new protobuf.Root()
await root.load(PROTO, { keepCase: true }) // names as in JSON
const BoundaryLogs = root.lookupType('boundary_usage.BoundaryLogs')

/** The fields of a JSON batch that a protobuf one has too. */
export interface ProtobufBatch {
  session_id?: string
  confined_process_name?: string
  logs?: {
    allowed?: boolean
    time?: string
    sequence_number?: number
    http_request?: { method?: string; url?: string; matched_rule?: string }
  }[]
}

/** A batch on the wire; fields that the .proto does not have are left out. */
export function encode(batch: ProtobufBatch): Buffer {
  const logs = batch.logs?.map((log) => ({ ...log, ...(log.time && { time: timestamp(log.time) }) }))
  return Buffer.from(
    BoundaryLogs.encode(BoundaryLogs.fromObject({ ...batch, ...(logs && { logs }) })).finish(),
  )
}

function timestamp(time: string): { seconds: number; nanos: number } {
  const ms = Date.parse(time)
  const seconds = Math.floor(ms / 1000)
  return { seconds, nanos: (ms - seconds * 1000) * 1_000_000 }
}

/** What bytes come to; throws if they are no such message. */
export function decode(bytes: Uint8Array): ProtobufBatch {
  return BoundaryLogs.toObject(BoundaryLogs.decode(bytes), { longs: Number }) as ProtobufBatch
}

/** The logs of a batch and its session; throws if the bytes are no such message. */
export function decodeLogs(bytes: Uint8Array): {
  logs: NonNullable<ProtobufBatch['logs']>
  sessionId: string
} {
  const { logs, session_id } = decode(bytes)
  return { logs: logs ?? [], sessionId: session_id ?? '' }
}
