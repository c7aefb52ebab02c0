// UUIDs read from bytes are those of the regular expression, also if one with the same last bytes was read before.

import { randomInt, randomUUID } from 'node:crypto'
import t from 'tap'
import { UUID } from '../../src/http/formats.js'
import { uuidAt } from '../../src/ingest/uuid.js'

const read = (text: string) => uuidAt(Buffer.from(`"${text}"`), 1, 1 + Buffer.byteLength(text))

t.test('each UUID is itself in lower case, whichever were read before', async (t) => {
  const tails = ['0000', 'abcd', 'ABCD', '12fE']
  const ids = Array.from({ length: 5_000 }, () => randomUUID().slice(0, -4) + tails[randomInt(tails.length)])
  for (let round = 0; round < 2; round++)
    for (const id of ids) {
      for (const text of [id, id.toUpperCase(), id]) if (read(text) !== id.toLowerCase()) t.fail(text)
    }
  t.equal(read('00000000-0000-0000-0000-000000000000'), '00000000-0000-0000-0000-000000000000')
})

t.test('what is no UUID is none, although it differs from one in a single byte', async (t) => {
  let refused = 0
  for (let n = 0; n < 36; n++)
    for (let byte = 1; byte < 128; byte++) {
      const id = randomUUID()
      t.equal(read(id), id)
      const text = id.slice(0, n) + String.fromCharCode(byte) + id.slice(n + 1)
      const expected = UUID.test(text) ? text.toLowerCase() : undefined
      if (expected === undefined) refused++
      if (read(text) !== expected || read(text) !== expected) t.fail(JSON.stringify(text))
    }
  t.equal(refused, 32 * (127 - 22) + 4 * 126)
  t.equal(read(randomUUID().slice(1)), undefined)
  t.equal(read(`${randomUUID()}0`), undefined)
})
