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

/** The UUID in lower case whose text these bytes are; undefined if they are none. */
export function uuidAt(bytes: Buffer, start: number, end: number): string | undefined {
  if (end - start !== LENGTH) return undefined
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
