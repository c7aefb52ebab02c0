// Protobuf read from the wire: what a well-kept library makes of the same bytes is what counts.

import { deepStrictEqual } from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { countWire, WireError } from '../../src/ingest/protobuf.js'
import { decode, encode, type ProtobufBatch, summarize } from '../helpers/protobuf.js'

const text = fc.string({ unit: 'binary', maxLength: 200 })
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

/** What countWire() says of bytes, or why it refuses them. Anything but a refusal is thrown. */
function read(bytes: Uint8Array) {
  try {
    return countWire(bytes)
  } catch (error) {
    if (error instanceof WireError) return error
    throw error
  }
}

function meaning(bytes: Uint8Array) {
  try {
    return decode(bytes)
  } catch {
    return undefined
  }
}

t.test('what the library encodes counts as what was encoded', async (t) => {
  fc.assert(
    fc.property(batches, (batch) => {
      deepStrictEqual(countWire(encode(batch)), summarize(batch.logs ?? [], batch.session_id ?? ''))
    }),
    { numRuns: 500 },
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
        if (found instanceof WireError) seen.refused++
        else seen.read++
        // The library skips a varint of any length.
        if (found instanceof WireError && found.message.includes('more than ten bytes')) return
        const meant = found instanceof WireError ? undefined : found
        deepStrictEqual(meant, meaning(bytes), Buffer.from(bytes).toString('hex'))
      }),
      { numRuns: 20_000 },
    )
    t.ok(seen.read > 1_000 && seen.refused > 1_000, JSON.stringify(seen))
  },
)

t.test('groups are skipped to a depth that cannot exhaust the stack', async (t) => {
  const nested = (depth: number) => Buffer.concat([Buffer.alloc(depth, 0x3b), Buffer.alloc(depth, 0x3c)])
  t.ok(countWire(nested(100)))
  t.throws(() => countWire(nested(101)), { name: 'WireError', message: /groups nested too deeply/ })
  t.throws(() => countWire(nested(2_000_000)), { name: 'WireError' })
})

t.test('a refusal says where', async (t) => {
  const batch = encode({ logs: [{ http_request: { url: 'a' } }, { http_request: { url: 'b' } }] })
  batch[batch.length - 1] = 0xff
  t.throws(() => countWire(batch), { message: /not UTF-8, before byte \d+ in or after logs\/1$/ })
})

t.test('one byte that is not UTF-8 is found wherever it is', async (t) => {
  for (let length = 1; length <= 50; length++) {
    const batch = encode({ logs: [{ http_request: { method: 'GET', url: 'u'.repeat(length) } }] })
    for (let at = 1; at <= length; at++) {
      const bytes = Buffer.from(batch)
      bytes[bytes.length - at] = 0xff
      t.throws(() => countWire(bytes), { name: 'WireError' }, `${at} from the end of ${length}`)
    }
  }
})

t.test('a varint has ten bytes at most, also one that is not used', async (t) => {
  for (const [field, tag] of Object.entries({ allowed: 0x08, sequence_number: 0x20, unknown: 0x78 })) {
    const batch = (...varint: number[]) => Buffer.from([0x0a, varint.length + 1, tag, ...varint])
    const more = (count: number) => new Array<number>(count).fill(0x80)
    t.ok(countWire(batch(...more(9), 1)), field)
    t.throws(() => countWire(batch(...more(10), 1)), { message: /more than ten bytes/ }, field)
    t.throws(() => countWire(batch(...more(3))), { message: /end in the middle of a varint/ }, field)
  }
})
