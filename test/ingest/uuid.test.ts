// UUIDs read from bytes are those of the regular expression.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { UUID } from '../../src/http/formats.js'
import { uuidAt } from '../../src/ingest/uuid.js'

const read = (text: string) => uuidAt(Buffer.from(`"${text}"`), 1, 1 + Buffer.byteLength(text))

t.test('a UUID is itself in lower case', async (t) => {
  for (let n = 0; n < 1_000; n++) {
    const id = randomUUID()
    for (const text of [id, id.toUpperCase()]) if (read(text) !== id) t.fail(text)
  }
})

t.test('what is no UUID is none, although it differs from one in a single byte', async (t) => {
  let refused = 0
  for (let n = 0; n < 36; n++)
    for (let byte = 1; byte < 128; byte++) {
      const id = randomUUID()
      const text = id.slice(0, n) + String.fromCharCode(byte) + id.slice(n + 1)
      const expected = UUID.test(text) ? text.toLowerCase() : undefined
      if (expected === undefined) refused++
      if (read(text) !== expected) t.fail(JSON.stringify(text))
    }
  t.equal(refused, 32 * (127 - 22) + 4 * 126)
  t.equal(read(randomUUID().slice(1)), undefined)
  t.equal(read(`${randomUUID()}0`), undefined)
  for (let byte = 0; byte < 256; byte++) t.equal(uuidAt(Buffer.alloc(36, byte), 0, 36), undefined)
})
