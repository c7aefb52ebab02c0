// Frames and messages: whatever arrives, and however it is cut, logs come out unchanged.

import t from 'tap'
import { FrameError, FrameReader } from '../../src/forwarder/frames.js'
import { batchOf, MAX_NUMBER, numbered, readLogs, readMessage } from '../../src/forwarder/wire.js'
import { WireError } from '../../src/wire.js'
import { boundaryLogs, envelopeFrame, frameOf, plainFrame } from '../helpers/boundary.js'
import { decodeLogs, encode } from '../helpers/protobuf.js'

const SESSION = '6f9619ff-8b86-4011-b42d-00c04fc964ff'
const batch = { session_id: SESSION, logs: boundaryLogs(10) }

t.test('frames come out whole, wherever the stream is cut', async (t) => {
  const frames = [
    plainFrame(batch),
    envelopeFrame(batch),
    frameOf(2, Buffer.alloc(0)),
    frameOf(1, Buffer.alloc(2 ** 15)),
  ]
  const stream = Buffer.concat(frames)
  for (const size of [1, 2, 3, 5, 7, 64, 1000, stream.length]) {
    const reader = new FrameReader()
    const read: Buffer[] = []
    for (let at = 0; at < stream.length; at += size)
      for (const { bytes } of reader.read(stream.subarray(at, at + size))) read.push(Buffer.from(bytes))
    t.ok(Buffer.concat(read).equals(stream), `pieces of ${size} bytes`)
    t.equal(read.length, frames.length)
    t.equal(reader.pending, 0)
  }
})

t.test('what is no frame ends the stream, after the frames before it', async (t) => {
  for (const garbage of [
    'GET / HTTP/1.1',
    '\0\0\0\0',
    '\x03\0\0\x01x',
    '\x02\0\x80\x01',
    '\x01\xff\xff\xff',
  ]) {
    const reader = new FrameReader()
    const read: number[] = []
    t.throws(() => {
      for (const { tag } of reader.read(Buffer.concat([plainFrame(batch), Buffer.from(garbage, 'latin1')])))
        read.push(tag)
    }, FrameError)
    t.strictSame(read, [1])
  }
})

t.test('logs pass through byte for byte, in a batch that a protobuf library reads the same', async (t) => {
  for (const [tag, frame] of [
    [1, plainFrame(batch)],
    [2, envelopeFrame(batch, { queueFull: 3, batchFull: 200 })],
  ] as const) {
    const message = readMessage(tag, frame.subarray(4))
    t.equal(message.sessionId, SESSION)
    t.strictSame(
      message.droppedByBoundary,
      tag === 1 ? { queueFull: 0, batchFull: 0 } : { queueFull: 3, batchFull: 200 },
    )
    t.strictSame(
      message.logs.map(({ number }) => number),
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    )
    const body = batchOf(
      message.sessionId,
      message.logs.map(({ bytes }) => bytes),
    )
    t.strictSame(decodeLogs(body), decodeLogs(encode(batch)))
  }
})

t.test('unknown fields are skipped, of every wire type, and kept within logs', async (t) => {
  // Fields 15 to 19: a varint, 64 bits, bytes, a group that contains a varint, 32 bits.
  const unknown = Buffer.from(
    '78ffffffffffffffffff01' +
      '8101' +
      '0011223344556677' +
      '8a01' +
      '03616263' +
      '9301' +
      '7801' +
      '9401' +
      '9d01' +
      '00112233',
    'hex',
  )
  const [log] = readLogs(encode({ logs: boundaryLogs(1, 7) }))
  const content = Buffer.concat([log?.bytes.subarray(2) ?? Buffer.alloc(0), unknown])
  const bytes = Buffer.concat([Buffer.from([0x0a, content.length]), content])
  const message = readMessage(
    2,
    frameOf(
      2,
      Buffer.concat([unknown, Buffer.from([0x0a, ...varint(bytes.length + unknown.length)]), bytes, unknown]),
    ).subarray(4),
  )
  t.strictSame(message.logs, [{ bytes, number: 7 }])
})

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...varint(value >> 7)]
}

t.test('a log can be given a number, which replaces the one it has', async (t) => {
  for (const number of [2, 127, 128, 129, 300, 16_384, MAX_NUMBER]) {
    const logs = readLogs(encode({ logs: boundaryLogs(3, 5) })).map((log, n) => numbered(log, number - n))
    const { logs: decoded } = decodeLogs(Buffer.concat(logs.map(({ bytes }) => bytes)))
    t.strictSame(
      decoded.map(({ sequence_number = 0 }) => sequence_number),
      [number, number - 1, number - 2],
    )
    t.strictSame(
      readLogs(Buffer.concat(logs.map(({ bytes }) => bytes))).map((log) => log.number),
      [number, number - 1, number - 2],
    )
  }
  t.equal(readLogs(encode({ logs: [{ sequence_number: -5 }] }))[0]?.number, -5)
})

t.test('bytes that are no message are told from one, wherever they are cut', async (t) => {
  const bytes = envelopeFrame(batch).subarray(4)
  for (let end = 1; end < bytes.length; end += 1)
    t.throws(() => readMessage(2, bytes.subarray(0, end)), WireError)
  for (const bad of ['00', '07', '0aff01', '0a020801ff', '0a0220', '0b', '0affffffffffffffffffff01'])
    t.throws(() => readMessage(1, Buffer.from(bad, 'hex')), WireError, bad)
})
