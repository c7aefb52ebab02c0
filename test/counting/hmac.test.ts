// The HMAC of ids is that of node:crypto, under which the sessions and sketches in the database were recorded.

import { createHmac, randomBytes } from 'node:crypto'
import t from 'tap'
import { hmac } from '../../src/counting/hmac.js'

t.test('keys and texts of every length have the HMAC of node:crypto, also one after the other', async (t) => {
  for (let length = 0; length <= 64; length++) {
    const key = randomBytes(length)
    const [hex, binary] = [hmac(key, 'hex'), hmac(key, 'binary')]
    for (const size of [256, 73, 36, 1, 0, 255]) {
      const text = randomBytes(size).toString('latin1')
      const expected = createHmac('sha256', key).update(text, 'latin1').digest('binary')
      t.equal(binary(text), expected)
      t.equal(hex(text), Buffer.from(expected, 'latin1').toString('hex'))
    }
  }
})

t.test('longer keys and texts are refused', async (t) => {
  t.throws(() => hmac(Buffer.alloc(65), 'hex'), RangeError)
  t.throws(() => hmac(Buffer.alloc(32), 'hex')('a'.repeat(257)), RangeError)
})
