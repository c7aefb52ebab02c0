// A boundary as the forwarder meets it: frames on a unix socket, encoded by a protobuf library from the fields that
// real boundaries set.

import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import protobuf from 'protobufjs'
import { encode, type ProtobufBatch } from './protobuf.js'
import type { Scope } from './scope.js'

const { root } = protobuf.parse(`
  syntax = "proto3";
  message Envelope { bytes batch = 1; Status status = 2; }
  message Status { int64 queue_full = 1; int64 batch_full = 2; }
`)
const Envelope = root.lookupType('Envelope')

export type BoundaryLog = NonNullable<ProtobufBatch['logs']>[number]

export interface Status {
  queueFull?: number
  batchFull?: number
}

/** The frame of boundary 0.8: the batch itself. */
export function plainFrame(batch: ProtobufBatch): Buffer {
  return frameOf(1, encode(batch))
}

/** The frame of boundary 0.9 and later: an envelope with a batch, a status, both or neither. */
export function envelopeFrame(batch?: ProtobufBatch, status?: Status): Buffer {
  const envelope = Envelope.fromObject({
    ...(batch && { batch: encode(batch) }),
    ...(status && { status: { queueFull: status.queueFull ?? 0, batchFull: status.batchFull ?? 0 } }),
  })
  return frameOf(2, Buffer.from(Envelope.encode(envelope).finish()))
}

export function frameOf(tag: number, message: Buffer): Buffer {
  const header = Buffer.alloc(4)
  header.writeUInt32BE(message.length)
  header.writeUInt8(tag)
  return Buffer.concat([header, message])
}

/** So many logs numbered from `first` on, of which every tenth is denied. */
export function boundaryLogs(count: number, first = 0, url = 'https://example.com/'): BoundaryLog[] {
  return Array.from({ length: count }, (_, n) => ({
    allowed: (first + n) % 10 !== 9,
    time: '2026-11-25T12:00:00.000Z',
    http_request: { method: 'GET', url: `${url}${first + n}`, matched_rule: 'domain=example.com' },
    sequence_number: first + n,
  }))
}

export interface BoundaryConnection {
  readonly socket: Socket
  /** Resolves when the kernel has taken the bytes. */
  send(...frames: Buffer[]): Promise<void>
  close(): Promise<void>
}

export async function connectBoundary(t: Scope, path: string): Promise<BoundaryConnection> {
  const socket = connect(path)
  socket.on('error', () => {}) // a forwarder that is killed resets it; whoever sends is told
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  return {
    socket,
    async send(...frames) {
      await new Promise<void>((resolve, reject) => {
        socket.write(Buffer.concat(frames), (error) => (error ? reject(error) : resolve()))
      })
    },
    async close() {
      if (socket.destroyed) return
      const closed = once(socket, 'close')
      socket.end()
      await closed
    },
  }
}
