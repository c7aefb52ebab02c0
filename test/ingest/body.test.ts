// Bodies are read whole however their bytes come, hold little more than they are, and end at the limit.

import { randomBytes } from 'node:crypto'
import { PassThrough, Readable } from 'node:stream'
import t from 'tap'
import { readBody } from '../../src/ingest/body.js'
import { readJson } from '../../src/ingest/json.js'
import { batch } from '../helpers/replica.js'

const LIMIT = 1_000_000

interface Held {
  /** The most that it held at a time, and all that it ever took. */
  peak: number
  sum: number
  /** How often many small chunks had arrived. */
  manyChunks: number
}

function readAll(payload: Readable, declaredLength?: number, limit = LIMIT) {
  const held: Held = { peak: 0, sum: 0, manyChunks: 0 }
  const onHold = (bytes: number) => {
    held.peak = Math.max(held.peak, bytes)
    held.sum += bytes
  }
  const onManyChunks = () => {
    held.manyChunks++
  }
  return new Promise<{ body: Buffer; held: Held }>((resolve, reject) => {
    const options = { declaredLength: declaredLength?.toString(), limit, onHold, onManyChunks }
    readBody(payload, options, (error, body) => {
      if (body === undefined) reject(error)
      else resolve({ body: body.bytes(), held })
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

t.test('small chunks hold no more than twice the bytes that came, and copy each a few times', async (t) => {
  const bytes = Buffer.alloc(4_000, ' ')
  const { body, held } = await readAll(Readable.from(bytewise(bytes), { objectMode: false }))
  t.ok(body.equals(bytes))
  t.ok(held.peak <= 2 * bytes.length, `${held.peak} at most`)
  t.ok(held.sum <= 4 * bytes.length, `${held.sum} in all`)
  t.equal(held.manyChunks, 0)
  const more = await readAll(Readable.from(bytewise(Buffer.alloc(10_000, ' ')), { objectMode: false }))
  t.equal(more.body.length, 10_000)
  t.equal(more.held.manyChunks, 2, 'after each 4,096')
})

t.test('a body is the same in chunks of any lengths, of which large ones are not copied', async (t) => {
  const bytes = randomBytes(LIMIT)
  const lengths = [1, 255, 300, 16_383, 16_384, 65_536, 200_000]
  for (const first of lengths)
    for (const second of lengths) {
      const chunks: Buffer[] = []
      for (let at = 0; at < bytes.length / 4 && chunks.length < 4_000; ) {
        const length = chunks.length % 2 ? second : first
        chunks.push(bytes.subarray(at, at + length))
        at += length
      }
      const sent = Buffer.concat(chunks)
      for (const declared of [undefined, sent.length]) {
        const { body, held } = await readAll(chunked(...chunks), declared)
        if (!body.equals(sent)) t.fail(`chunks of ${first} and ${second}`)
        if (held.peak > 2 * sent.length) t.fail(`${held.peak} for ${first} and ${second}`)
      }
    }
  const large = [bytes.subarray(0, 100_000), bytes.subarray(100_000, 250_000)]
  t.equal((await readAll(chunked(...large), 250_000)).held.peak, 250_000)
})

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
})

t.test('a body that is given up while it is read ends with that error, and reads no further', async (t) => {
  const payload = new PassThrough()
  const refusal = new Error('no room')
  let giveUp: (error: Error) => void = () => {}
  const sizes: number[] = []
  const read = new Promise((_, reject) => {
    const onHold = (bytes: number) => {
      sizes.push(bytes)
      if (bytes > 100) giveUp(refusal)
    }
    giveUp = readBody(payload, { declaredLength: undefined, limit: LIMIT, onHold }, (error) => reject(error))
  })
  for (let n = 0; n < 100; n++) payload.write(Buffer.alloc(10))
  await t.rejects(read, refusal)
  t.strictSame(sizes, [20, 40, 80, 160])
})
