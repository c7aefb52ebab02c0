// Gzip that is expensive for its length: it takes long to decompress, or decompresses to much.

import { constants, crc32, deflateRawSync } from 'node:zlib'

/** Each of them describes its codes and contains nothing: fields of bits, as [value, how many], lowest bit first. */
const EMPTY_BLOCK: [number, number][] = [
  [0, 1], // not the last
  [2, 2], // with codes of its own
  [0, 5], // 257 literals and lengths
  [0, 5], // 1 distance
  [14, 4], // 18 lengths of code lengths follow
  ...Array.from({ length: 18 }, (_, n): [number, number] => [n === 2 || n === 17 ? 1 : 0, 3]), // of 18 and of 1
  [1, 1],
  [127, 7], // 138 literals without a code
  [1, 1],
  [107, 7], // 118 more
  [0, 1], // the end of the block has a code
  [0, 1], // the distance has one
  [0, 1], // the end of the block
]

/** A gzip of `content`, in front of which are about `bytes` bytes of empty blocks. */
export function gzipWithEmptyBlocks(content: Buffer, bytes: number): Buffer {
  const bits = EMPTY_BLOCK.flatMap(([value, width]) =>
    Array.from({ length: width }, (_, n) => (value >> n) & 1),
  )
  // Eight blocks end where a byte ends.
  const period = Buffer.alloc(bits.length)
  for (let n = 0; n < 8 * bits.length; n++)
    period.writeUInt8(period.readUInt8(n >> 3) | ((bits[n % bits.length] ?? 0) << (n & 7)), n >> 3)
  const blocks = [...Array<Buffer>(Math.ceil(bytes / period.length)).fill(period), deflateRawSync(content)]
  return gzipOf(blocks, crc32(content), content.length)
}

/** That many times 16 MiB of spaces, packed once: to pack 512 MiB takes seconds. */
export function gzipOfSpaces(times: number): Buffer {
  const spaces = Buffer.alloc(16 * 1024 * 1024, ' ')
  const block = deflateRawSync(spaces, { level: 9, finishFlush: constants.Z_FULL_FLUSH })
  let crc = 0
  for (let n = 0; n < times; n++) crc = crc32(spaces, crc)
  return gzipOf([...Array<Buffer>(times).fill(block), deflateRawSync('')], crc, times * spaces.length)
}

/** The last of the blocks ends the stream; the checksum and the length are those of what they contain. */
function gzipOf(blocks: Buffer[], crc: number, length: number): Buffer {
  const trailer = Buffer.alloc(8)
  trailer.writeUInt32LE(crc, 0)
  trailer.writeUInt32LE(length, 4)
  return Buffer.concat([Buffer.of(0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff), ...blocks, trailer])
}
