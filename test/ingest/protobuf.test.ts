// Protobuf read from the wire: what a well-kept library makes of the same bytes is what counts.

import { deepStrictEqual } from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import type { Batch } from '../../src/ingest/batch.js'
import { readProtobuf } from '../../src/ingest/protobuf.js'
import { decode, encode, type ProtobufBatch } from '../helpers/protobuf.js'
import { anyText } from '../helpers/text.js'
import { summarize } from './reference.js'

const text = anyText(200)
const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined })
const batches: fc.Arbitrary<ProtobufBatch> = fc
  .record({
    session_id: maybe(fc.uuid()),
    confined_process_name: maybe(text),
    logs: fc.array(
      fc.record({
        allowed: maybe(fc.boolean()),
        time: maybe(
          fc
            .date({ min: new Date(0), max: new Date('9999-12-31T23:59:59Z'), noInvalidDate: true })
            .map((date) => date.toISOString()),
        ),
        sequence_number: maybe(fc.integer()),
        http_request: maybe(fc.record({ method: maybe(text), url: maybe(text), matched_rule: maybe(text) })),
      }),
      { maxLength: 20 },
    ),
  })
  .map((batch) => JSON.parse(JSON.stringify(batch))) // without what is undefined

const UUID = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i

type Outcome = { batch: Batch } | { code: string; message: string }

/** What the reader makes of bytes. Anything but a refusal is thrown. */
function read(bytes: Uint8Array): Outcome {
  try {
    return { batch: readProtobuf(Buffer.from(bytes)) }
  } catch (error) {
    const { code, message } = error as { code?: string; message: string }
    if (code !== 'INVALID_PROTOBUF' && code !== 'INVALID_BODY') throw error
    return { code, message }
  }
}

/** What a batch comes to; undefined if it is to be refused. */
function meaning({ logs = [], session_id = '' }: ProtobufBatch): Batch | undefined {
  if (session_id !== '' && !UUID.test(session_id)) return undefined
  return summarize(
    { workspaceId: undefined, ownerId: undefined, sessionId: session_id.toLowerCase() || undefined },
    logs.map((log) => ({ ...log, sequence_number: log.sequence_number ?? 0 })),
  )
}

/** What the library makes of bytes; undefined if it refuses them, or they are to be refused. */
function meaningOf(bytes: Uint8Array): Batch | undefined {
  try {
    return meaning(decode(bytes))
  } catch {
    return undefined
  }
}

t.test('what the library encodes counts as what was encoded', async (t) => {
  fc.assert(
    fc.property(batches, (batch) => {
      const found = read(encode(batch))
      deepStrictEqual('batch' in found ? found.batch : undefined, meaning(batch))
    }),
    { numRuns: 1_000 },
  )
  t.pass()
})

t.test(
  'bytes that were changed, cut or made up mean what they mean to the library, or are refused',
  async (t) => {
    const seen = { read: 0, refused: 0 }
    const change = fc.record({
      at: fc.nat(),
      remove: fc.nat({ max: 3 }),
      insert: fc.uint8Array({ maxLength: 3 }),
    })
    const changed = fc
      .tuple(batches, fc.array(change, { minLength: 1, maxLength: 3 }))
      .map(([batch, changes]) => {
        let bytes: Buffer = encode(batch)
        for (const { at, remove, insert } of changes) {
          const start = at % (bytes.length + 1)
          bytes = Buffer.concat([bytes.subarray(0, start), insert, bytes.subarray(start + remove)])
        }
        return bytes
      })
    fc.assert(
      fc.property(fc.oneof(changed, fc.uint8Array({ maxLength: 40 })), (bytes) => {
        const found = read(bytes)
        if ('batch' in found) seen.read++
        else seen.refused++
        // The library skips a varint of any length.
        if ('code' in found && found.message.includes('more than ten bytes')) return
        const batch = 'batch' in found ? found.batch : undefined
        deepStrictEqual(batch, meaningOf(bytes), Buffer.from(bytes).toString('hex'))
      }),
      { numRuns: 20_000 },
    )
    t.ok(seen.read > 1_000 && seen.refused > 1_000, JSON.stringify(seen))
  },
)

t.test('a number of a session is read to the last that is safe, and no further', async (t) => {
  const sessionId = Buffer.concat([Buffer.from([0x12, 36]), Buffer.from(randomUUID())])
  const batch = (...varint: number[]) =>
    Buffer.concat([sessionId, Buffer.from([0x0a, varint.length + 1, 0x20, ...varint])])
  const last = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f] // 2^53 - 2
  t.strictSame(readProtobuf(batch(...last)).numbers, [2 ** 53 - 2, 2 ** 53 - 1, 2])
  const beyond = [0xff, ...last.slice(1)]
  const negative = [...new Array<number>(9).fill(0xff), 1]
  for (const varint of [beyond, negative])
    t.throws(() => readProtobuf(batch(...varint)), {
      code: 'INVALID_BODY',
      message: '/logs/0/sequence_number must be between 0 and 9007199254740990 with a session_id',
    })
})

t.test('groups are skipped to a depth that cannot exhaust the stack', async (t) => {
  const nested = (depth: number) => Buffer.concat([Buffer.alloc(depth, 0x3b), Buffer.alloc(depth, 0x3c)])
  t.ok(readProtobuf(nested(100)))
  t.throws(() => readProtobuf(nested(101)), { code: 'INVALID_PROTOBUF', message: /groups nested too deeply/ })
  t.throws(() => readProtobuf(nested(2_000_000)), { code: 'INVALID_PROTOBUF' })
})

t.test('a refusal says where', async (t) => {
  const batch = encode({ logs: [{ http_request: { url: 'a' } }, { http_request: { url: 'b' } }] })
  batch[batch.length - 1] = 0xff
  t.throws(() => readProtobuf(batch), { message: /not UTF-8, before byte \d+, after 1 logs$/ })
})

t.test('one byte that is not UTF-8 is found wherever it is', async (t) => {
  for (let length = 1; length <= 50; length++) {
    const batch = encode({ logs: [{ http_request: { method: 'GET', url: 'u'.repeat(length) } }] })
    for (let at = 1; at <= length; at++) {
      const bytes = Buffer.from(batch)
      bytes[bytes.length - at] = 0xff
      t.throws(() => readProtobuf(bytes), { code: 'INVALID_PROTOBUF' }, `${at} from the end of ${length}`)
    }
  }
})

t.test('a varint has ten bytes at most, also one that is not used', async (t) => {
  for (const [field, tag] of Object.entries({ allowed: 0x08, sequence_number: 0x20, unknown: 0x78 })) {
    const batch = (...varint: number[]) => Buffer.from([0x0a, varint.length + 1, tag, ...varint])
    const more = (count: number) => new Array<number>(count).fill(0x80)
    t.ok(readProtobuf(batch(...more(9), 1)), field)
    t.throws(() => readProtobuf(batch(...more(10), 1)), { message: /more than ten bytes/ }, field)
    t.throws(() => readProtobuf(batch(...more(3))), { message: /end in the middle of a varint/ }, field)
  }
})
