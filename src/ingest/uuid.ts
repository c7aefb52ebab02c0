// UUIDs, checked from their bytes: a regular expression would take longer than to read a log.

const HYPHEN = 1
const LOWER = 2
const UPPER = 4
/** What each byte can be in a UUID; 0 if it cannot be in one. */
const KINDS = new Uint8Array(256)
for (const digit of '0123456789abcdef') KINDS[digit.charCodeAt(0)] = LOWER
for (const digit of 'ABCDEF') KINDS[digit.charCodeAt(0)] = UPPER
KINDS['-'.charCodeAt(0)] = HYPHEN

const LENGTH = 36

/**
 * UUIDs that were read before, by a hash of their last bytes. Most come again with the next batch, and building a string
 * takes ten times as long as comparing it. About a megabyte when it is full.
 */
const SLOTS = 16_384
const recent: string[] = Array(SLOTS).fill('00000000-0000-0000-0000-000000000000')

/** The UUID in lower case whose text these bytes are; undefined if they are none. */
export function uuidAt(bytes: Buffer, start: number, end: number): string | undefined {
  if (end - start !== LENGTH) return undefined
  const slot = slotOf(bytes, end)
  const known = recent[slot] ?? ''
  if (isAt(bytes, start, known)) return known
  const id = parse(bytes, start, end)
  if (id !== undefined) recent[slot] = id
  return id
}

/** By four bytes, which are random in all versions of UUIDs. */
function slotOf(bytes: Buffer, end: number): number {
  let hash = 0
  for (let at = end - 4; at < end; at++) hash = (Math.imul(hash, 67) + (bytes[at] ?? 0)) | 0
  return hash & (SLOTS - 1)
}

function isAt(bytes: Buffer, start: number, id: string): boolean {
  for (let n = 0; n < LENGTH; n++) if (bytes[start + n] !== id.charCodeAt(n)) return false
  return true
}

function parse(bytes: Buffer, start: number, end: number): string | undefined {
  let kinds = 0
  for (let n = 0; n < LENGTH; n++) {
    const kind = KINDS[bytes[start + n] ?? 0] ?? 0
    const isHyphen = n === 8 || n === 13 || n === 18 || n === 23
    if (kind === 0 || (kind === HYPHEN) !== isHyphen) return undefined
    kinds |= kind
  }
  const id = bytes.toString('latin1', start, end)
  return kinds & UPPER ? id.toLowerCase() : id
}
