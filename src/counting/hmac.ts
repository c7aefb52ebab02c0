// HMAC-SHA-256 of ids (RFC 2104), as two hashes of one call each: an Hmac object for each id takes twice as long.

import { hash } from 'node:crypto'

const BLOCK_BYTES = 64
const DIGEST_BYTES = 32
/** More than two ids. */
const MAX_LENGTH = 256

/** The HMAC under `key` of texts in Latin-1. `key` is not longer than a block of the hash. */
export function hmac(key: Uint8Array, encoding: 'hex' | 'binary'): (text: string) => string {
  if (key.length > BLOCK_BYTES) throw new RangeError('the key is too long')
  const inner = keyed(key, 0x36, MAX_LENGTH)
  const outer = keyed(key, 0x5c, DIGEST_BYTES)
  return (text) => {
    if (text.length > MAX_LENGTH) throw new RangeError('the text is too long')
    inner.write(text, BLOCK_BYTES, 'latin1')
    const digest = hash('sha256', inner.subarray(0, BLOCK_BYTES + text.length), 'binary')
    outer.write(digest, BLOCK_BYTES, 'latin1')
    return hash('sha256', outer, encoding)
  }
}

/** A block of `pad` with the key, and room for what is hashed behind it. */
function keyed(key: Uint8Array, pad: number, room: number): Buffer {
  const bytes = Buffer.alloc(BLOCK_BYTES + room, pad)
  for (const [index, byte] of key.entries()) bytes[index] = byte ^ pad
  return bytes
}
