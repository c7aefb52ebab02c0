// Bodies are read whole however their bytes come, hold little more than they are, and end at the limit.

import { PassThrough, Readable } from 'node:stream'
import t from 'tap'
import { type Payload, readBody } from '../../src/ingest/body.js'
import { readJson } from '../../src/ingest/json.js'
import { batch } from '../helpers/replica.js'

const LIMIT = 1_000_000

interface Held {
  /** The most that it held at a time, and all that it ever took. */
  peak: number
  sum: number
  last: number
}

function readAll(payload: Payload, declaredLength?: number, limit = LIMIT) {
  const held: Held = { peak: 0, sum: 0, last: 0 }
  const onHold = (bytes: number) => {
    held.peak = Math.max(held.peak, bytes)
    held.sum += bytes
    held.last = bytes
  }
  return new Promise<{ body: Buffer; held: Held }>((resolve, reject) => {
    readBody(payload, { declaredLength: declaredLength?.toString(), limit, onHold }, (error, body) => {
      if (held.last !== 0) reject(new Error(`still holds ${held.last}`))
      else if (body === undefined) reject(error)
      else resolve({ body, held })
    })
  })
}

const chunked = (...chunks: Buffer[]) => Readable.from(chunks, { objectMode: false, highWaterMark: 1 })

function* bytewise(bytes: Buffer) {
  for (const byte of bytes) yield Buffer.of(byte)
}

t.test('a batch is the same with a chunk boundary at any byte', async (t) => {
  const bytes = Buffer.from(
    JSON.stringify(
      batch({
        session_id: 'b1d3c6f0-0e65-4c8a-9a43-7d6d1f4f8f11',
        logs: [{ allowed: true, sequence_number: 3, x: 'é😀\\u00e9' }],
      }),
    ),
  )
  const expected = readJson(bytes)
  for (const declared of [undefined, bytes.length])
    for (let at = 0; at <= bytes.length; at++) {
      const { body } = await readAll(chunked(bytes.subarray(0, at), bytes.subarray(at)), declared)
      if (!body.equals(bytes)) t.fail(`cut at ${at}`)
      t.strictSame(readJson(body), expected)
    }
})

t.test(
  'one-byte chunks hold no more than twice the bytes that came, and copy each a few times',
  async (t) => {
    const bytes = Buffer.alloc(200_000, ' ')
    const { body, held } = await readAll(Readable.from(bytewise(bytes), { objectMode: false }))
    t.ok(body.equals(bytes))
    t.ok(held.peak <= 2 * bytes.length, `${held.peak} at most`)
    t.ok(held.sum <= 4 * bytes.length, `${held.sum} in all`)
  },
)

t.test('a length that was declared reserves nothing', async (t) => {
  const payload = new PassThrough()
  const read = readAll(payload, LIMIT)
  payload.write(Buffer.alloc(10))
  payload.destroy(new Error('gone'))
  await t.rejects(read, { message: 'gone', statusCode: 400 })
  const { held } = await readAll(chunked(Buffer.alloc(100), Buffer.alloc(1)), 101)
  t.equal(held.peak, 101, 'and is the most that a body holds')
})

t.test('what is too large, or not as long as declared, is refused', async (t) => {
  const tooLarge = { statusCode: 413, code: 'FST_ERR_CTP_BODY_TOO_LARGE' }
  const otherLength = { statusCode: 400, code: 'FST_ERR_CTP_INVALID_CONTENT_LENGTH' }
  t.equal((await readAll(chunked(Buffer.alloc(10)), 10, 10)).body.length, 10)
  await t.rejects(readAll(chunked(Buffer.alloc(11)), 11, 10), tooLarge)
  await t.rejects(readAll(chunked(Buffer.alloc(6), Buffer.alloc(5)), undefined, 10), tooLarge)
  await t.rejects(readAll(chunked(Buffer.alloc(5)), 6), otherLength)
  await t.rejects(readAll(chunked(Buffer.alloc(7)), 6), otherLength)
  const unpacked = (sent: number) => Object.assign(chunked(Buffer.alloc(5)), { receivedEncodedLength: sent })
  t.equal((await readAll(unpacked(3), 3, 10)).body.length, 5)
  await t.rejects(readAll(unpacked(11), undefined, 10), tooLarge)
  await t.rejects(readAll(unpacked(3), 4), otherLength)
})
