// The syntax of JSON (RFC 8259) over bytes: finds where values end, in one pass, and builds nothing.

import { InvalidJson } from '../http/errors.js'

const QUOTE = 0x22
const COMMA = 0x2c
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const LOWER_T = 0x74
const LOWER_F = 0x66
const MINUS = 0x2d
const SPACE = 0x20
const TAB = 0x09
const LINE_FEED = 0x0a
const CARRIAGE_RETURN = 0x0d
const LOWER_E = 0x65
const LOWER_N = 0x6e
const LOWER_U = 0x75
const COLON = 0x3a
const DOT = 0x2e
const PLUS = 0x2b
const BACKSLASH = 0x5c
const DIGIT_0 = 0x30
const DIGIT_9 = 0x39

const MAX_DEPTH = 64
/** Words enough for the longest name. */
const STRIDE = 8
/** With one more digit this is still a safe integer. With one more byte of ASCII it may not be. */
const MAX_EXACT = Math.floor(Number.MAX_SAFE_INTEGER / 10) - 1
/** The first bytes of values, numbers aside. */
const VALUE_STARTS = Buffer.from('"{[tfn')

/** Four bytes as one number, to be compared at once. */
const wordOf = (text: string) => Buffer.from(text).readInt32LE()
const TRUE = wordOf('true')
const NULL = wordOf('null')
const ALSE = wordOf('alse')

/** The character that a letter stands for after a backslash; 0 where it is none, and for `u`. */
const ESCAPES = new Uint8Array(256)
for (const [letter, character] of Object.entries({ b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' }))
  ESCAPES[letter.charCodeAt(0)] = character.charCodeAt(0)
for (const character of '"\\/') ESCAPES[character.charCodeAt(0)] = character.charCodeAt(0)

/** The value of each hexadecimal digit; for all other bytes, more than 16 bits. */
const NO_DIGIT = 0x1_0000
const HEX = new Uint32Array(256).fill(NO_DIGIT)
for (const digit of '0123456789abcdefABCDEF') HEX[digit.charCodeAt(0)] = Number.parseInt(digit, 16)

/** Instead of an offset or an index, where what was looked for is not there. */
const NONE = -1

/** The names of an object's members, each known by its index. Read with its quotes and colon. */
export class Names {
  readonly names: readonly string[]
  readonly #lengths: Uint8Array
  /** A bit for each length that a name has. */
  #lengthBits = 0
  /** Of each name the words that it consists of, from `index * STRIDE` on. The last one overlaps. */
  readonly #words: Int32Array

  constructor(names: readonly string[]) {
    const written = names.map((name) => Buffer.from(`"${name}":`))
    this.names = names
    this.#lengths = Uint8Array.from(written, ({ length }) => length)
    this.#words = new Int32Array(names.length * STRIDE)
    for (const { length } of written) this.#lengthBits |= 1 << length
    for (const [index, bytes] of written.entries())
      for (let n = 0; 4 * n < bytes.length; n++)
        this.#words[index * STRIDE + n] = bytes.readInt32LE(Math.min(4 * n, bytes.length - 4))
  }

  /** The index of the name that is written at `at`; -1 if it is none of these, or written in another way. */
  find(view: DataView, start: number, end: number): number {
    if (start + 4 > end) return NONE
    const words = this.#words
    const first = view.getInt32(start, true)
    let index = 0
    while (words[index * STRIDE] !== first) if (++index >= this.#lengths.length) return NONE
    const last = this.endOf(index, start) - 4
    if (last + 4 > end) return NONE
    let n = index * STRIDE + 1
    for (let at = start + 4; at < last; at += 4) if (view.getInt32(at, true) !== words[n++]) return NONE
    return view.getInt32(last, true) === words[n] ? index : NONE
  }

  /** Whether a name is written in so many bytes. */
  hasLength(length: number): boolean {
    return length < 32 && (this.#lengthBits & (1 << length)) !== 0
  }

  /** Where a name ends that find() has found at `at`. */
  endOf(index: number, at: number): number {
    return at + (this.#lengths[index] ?? 0)
  }
}

/**
 * Every method takes the offset where something begins and returns the offset behind it, or throws InvalidJson. None
 * reads at or past the end of the bytes: V8 would make that access slow for good.
 */
export class JsonScanner {
  readonly bytes: Buffer
  readonly #view: DataView
  readonly #end: number
  /** By how many bytes the string that was read last is longer than without escapes: 0 if it has none. */
  #escapedBytes = 0
  /** Where the value of the member begins whose name was read last. */
  valueAt = 0

  constructor(bytes: Buffer) {
    this.bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#end = bytes.length
  }

  /** The byte there; 0 at the end, which is no byte of JSON. */
  #byte(at: number): number {
    return at < this.#end ? (this.bytes[at] ?? 0) : 0
  }

  /** Where `byte` is, behind white space; -1 if something else is there. */
  #find(start: number, byte: number): number {
    const found = this.#byte(start)
    if (found === byte) return start
    if (found > SPACE) return NONE
    const at = this.#skipSpace(start)
    return this.#byte(at) === byte ? at : NONE
  }

  /** Skips white space. */
  #space(at: number): number {
    return this.#byte(at) > SPACE ? at : this.#skipSpace(at)
  }

  #skipSpace(start: number): number {
    const { bytes } = this
    const end = this.#end
    let at = start
    for (; at < end; at++) {
      const byte = bytes[at] ?? 0
      if (byte !== SPACE && byte !== LINE_FEED && byte !== CARRIAGE_RETURN && byte !== TAB) break
    }
    return at
  }

  /** Where the text begins: behind a byte order mark, if there is one. */
  start(): number {
    return this.#byte(0) === 0xef && this.#byte(1) === 0xbb && this.#byte(2) === 0xbf ? 3 : 0
  }

  /** Nothing but white space may be left. */
  finish(start: number): void {
    const at = this.#space(start)
    if (at < this.#end) this.#unexpected(at, 'the end')
  }

  /** Reads a member's name and colon; returns the index of its name, and keeps where its value begins. */
  member(names: Names, at: number): number {
    const index = names.find(this.#view, at, this.#end)
    if (index === NONE) return this.#otherMember(names, at)
    this.valueAt = this.#space(names.endOf(index, at))
    return index
  }

  /** With a name that is unknown, has escapes, or has white space around it. */
  #otherMember(names: Names, at: number): number {
    const start = this.#space(at)
    const end = this.#name(start)
    const colonEnd = this.#colon(end)
    this.valueAt = this.#space(colonEnd)
    if (this.#escapedBytes === 0 && colonEnd === end + 1)
      return start === at ? NONE : names.find(this.#view, start, this.#end)
    if (!names.hasLength(end - start - this.#escapedBytes + 1)) return NONE
    const length = this.#unescape(start, end, scratch)
    scratch[length] = COLON
    return names.find(scratchView, 0, length + 1)
  }

  #name(at: number): number {
    const end = this.string(at)
    return end === NONE ? this.#unexpected(at, 'a name in double quotes') : end
  }

  #colon(start: number): number {
    const at = this.#find(start, COLON)
    return at === NONE ? this.#unexpected(this.#space(start), '":"') : at + 1
  }

  /** Behind the opening brace; -1 if there is none. */
  openObject(start: number): number {
    return this.#behind(start, OPEN_BRACE)
  }

  openArray(start: number): number {
    return this.#behind(start, OPEN_BRACKET)
  }

  /** Where the first member begins behind the opening brace; -1 if there is none. */
  firstMember(start: number): number {
    return this.#find(start, CLOSE_BRACE) === NONE ? start : NONE
  }

  firstElement(start: number): number {
    return this.#find(start, CLOSE_BRACKET) === NONE ? start : NONE
  }

  /** Where the next member or element begins behind the comma; -1 if there is none. */
  next(start: number): number {
    return this.#behind(start, COMMA)
  }

  closeObject(start: number): number {
    const end = this.#behind(start, CLOSE_BRACE)
    return end === NONE ? this.#unexpected(this.#space(start), '"," or "}"') : end
  }

  closeArray(start: number): number {
    const end = this.#behind(start, CLOSE_BRACKET)
    return end === NONE ? this.#unexpected(this.#space(start), '"," or "]"') : end
  }

  #behind(start: number, byte: number): number {
    const at = this.#find(start, byte)
    return at === NONE ? NONE : at + 1
  }

  /** Reads a string; -1 if there is none. */
  string(start: number): number {
    if (this.#byte(start) !== QUOTE) return NONE
    const view = this.#view
    const lastWord = this.#end - 4
    this.#escapedBytes = 0
    let at = start + 1
    for (;;) {
      for (; at <= lastWord; at += 4) {
        const special = specialBytes(view.getInt32(at, true))
        if (special !== 0) {
          at += (31 - Math.clz32(special & -special)) >> 3
          break
        }
        // Most strings are short; in others, two words are checked at once.
        while (
          at <= lastWord - 8 &&
          !hasSpecialBytes(view.getInt32(at + 4, true), view.getInt32(at + 8, true))
        )
          at += 8
      }
      const byte = this.#byte(at)
      if (byte === QUOTE) return at + 1
      at = this.#special(at, byte)
    }
  }

  /** Reads what is not plain inside a string. */
  #special(at: number, byte: number): number {
    if (byte === BACKSLASH) return this.#escapes(at)
    if (byte >= 0x80) return this.#characters(at)
    if (byte < SPACE) this.#unexpected(at, 'the end of the string')
    return at + 1 // among the last three bytes
  }

  /** Reads escapes up to something else. */
  #escapes(start: number): number {
    const { bytes } = this
    const end = this.#end
    let removed = 0
    let at = start
    do {
      const letter = ++at < end ? (bytes[at] ?? 0) : 0
      if (letter === LOWER_U) {
        if (at + 4 >= end || codeUnitAt(bytes, at + 1) > 0xffff) this.#expectDigits(at + 1)
        at += 4
        removed += 4
      } else if (ESCAPES[letter] === 0) this.#unexpected(at, 'an escape')
      removed++
      at++
    } while (at < end && bytes[at] === BACKSLASH)
    this.#escapedBytes += removed
    return at
  }

  /** Refuses the first of four bytes that is no hexadecimal digit. */
  #expectDigits(start: number): void {
    for (let at = start; at < start + 4; at++)
      if (HEX[this.#byte(at)] === NO_DIGIT) this.#unexpected(at, 'a hexadecimal digit')
  }

  /** Reads characters of several bytes up to one of ASCII: UTF-8 as Unicode's table 3-7 has it. */
  #characters(start: number): number {
    const { bytes } = this
    const end = this.#end
    let at = start
    do {
      const lead = bytes[at] ?? 0
      const length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0
      if (length === 0 || at + length > end) invalidUtf8(at)
      const second = bytes[at + 1] ?? 0
      // Overlong forms, surrogates, and what is beyond the last code point.
      const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80
      const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf
      if (second < low || second > high) invalidUtf8(at)
      for (let n = 2; n < length; n++) if (((bytes[at + n] ?? 0) & 0xc0) !== 0x80) invalidUtf8(at)
      at += length
    } while (at < end && (bytes[at] ?? 0) >= 0x80)
    return at
  }

  /** The bytes between the quotes of the string that was read last and ended at `end`, without escapes. */
  content(start: number, end: number): { bytes: Buffer; from: number; to: number } {
    if (this.#escapedBytes === 0) return { bytes: this.bytes, from: start + 1, to: end - 1 }
    const bytes = end - start > MAX_ESCAPED_LENGTH ? Buffer.allocUnsafe(end - start) : scratch
    return { bytes, from: 1, to: this.#unescape(start, end, bytes) - 1 }
  }

  /**
   * Writes a string without its escapes to `decoded`; returns its length. It is to be compared with ASCII: a character
   * beyond that, if it was escaped, becomes one byte that is none.
   */
  #unescape(start: number, end: number, decoded: Buffer): number {
    const { bytes } = this
    let length = 0
    for (let at = start; at < end; at++) {
      let byte = bytes[at] ?? 0
      if (byte === BACKSLASH) {
        const letter = bytes[++at] ?? 0
        byte = ESCAPES[letter] ?? 0
        if (letter === LOWER_U) {
          byte = Math.min(codeUnitAt(bytes, at + 1), 0xff)
          at += 4
        }
      }
      decoded[length++] = byte
    }
    return length
  }

  number(start: number): number {
    const { bytes } = this
    const end = this.#end
    let at = bytes[start] === MINUS ? start + 1 : start
    if (at < end && bytes[at] === DIGIT_0) at++
    else at = this.#digits(at)
    if (at >= end || (bytes[at] ?? 0) <= COMMA) return at // the usual end: a comma or white space
    if (this.#byte(at) === DOT) at = this.#digits(at + 1)
    if ((this.#byte(at) | 0x20) === LOWER_E) {
      at++
      const sign = this.#byte(at)
      at = this.#digits(sign === PLUS || sign === MINUS ? at + 1 : at)
    }
    return at
  }

  #digits(start: number): number {
    const { bytes } = this
    const end = this.#end
    let at = start
    while (at < end && isDigit(bytes[at] ?? 0)) at++
    if (at === start) this.#unexpected(at, 'a digit')
    return at
  }

  /** What JSON.parse() makes of a number. */
  numberAt(start: number, end: number): number {
    const { bytes } = this
    let value = 0
    for (let at = start; at < end; at++) {
      const byte = bytes[at] ?? 0
      if (!isDigit(byte) || value > MAX_EXACT) return Number(bytes.toString('latin1', start, end))
      value = value * 10 + (byte - DIGIT_0)
    }
    return value
  }

  /** Reads `true` or `false`; -1 if neither begins here. The former is four bytes long. */
  boolean(at: number): number {
    const byte = this.#byte(at)
    if (byte === LOWER_T) return this.#word(at, TRUE)
    return byte === LOWER_F ? this.#word(at + 1, ALSE) : NONE
  }

  #word(at: number, word: number): number {
    if (at + 4 > this.#end || this.#view.getInt32(at, true) !== word) this.#unexpected(at, 'a value')
    return at + 4
  }

  /** Reads any value, which is inside of `depth` arrays and objects. */
  skip(at: number, depth: number): number {
    const byte = this.#byte(at)
    return byte === OPEN_BRACE || byte === OPEN_BRACKET ? this.#skipNested(at, depth) : this.#scalar(at, byte)
  }

  #skipNested(start: number, outerDepth: number): number {
    const { bytes } = this
    const end = this.#end
    let depth = outerDepth
    let at = start
    for (;;) {
      let byte = at < end ? (bytes[at] ?? 0) : 0
      if (byte <= SPACE) {
        at = this.#skipSpace(at)
        byte = this.#byte(at)
      }
      if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
        if (depth === MAX_DEPTH) throw new InvalidJson(`nesting deeper than ${MAX_DEPTH} at offset ${at}`)
        const closer = byte + 2 // in ASCII, for both
        closers[depth++] = closer
        at = this.#space(at + 1)
        if (this.#byte(at) !== closer) {
          if (closer === CLOSE_BRACE) at = this.#colon(this.#name(at))
          continue
        }
      } else at = this.#scalar(at, byte)

      // Behind a value: everything that closes here, then a comma.
      for (;;) {
        if (depth === outerDepth) return at
        let next = at < end ? (bytes[at] ?? 0) : 0
        if (next <= SPACE) {
          at = this.#skipSpace(at)
          next = this.#byte(at)
        }
        const closer = closers[depth - 1] ?? 0
        if (next === closer) {
          depth--
          at++
        } else if (next === COMMA) {
          at = closer === CLOSE_BRACE ? this.#colon(this.#name(this.#space(at + 1))) : at + 1
          break
        } else this.#unexpected(at, `"," or "${String.fromCharCode(closer)}"`)
      }
    }
  }

  #scalar(at: number, byte: number): number {
    if (byte === QUOTE) return this.string(at)
    if (byte === MINUS || isDigit(byte)) return this.number(at)
    if (byte === LOWER_T || byte === LOWER_F) return this.boolean(at)
    if (byte === LOWER_N) return this.#word(at, NULL)
    return this.#unexpected(at, 'a value')
  }

  isNumber(at: number): boolean {
    const byte = this.#byte(at)
    return byte === MINUS || isDigit(byte)
  }

  /** Refuses what is no value, by its first byte. */
  expectValue(start: number): void {
    const at = this.#space(start)
    if (!this.isNumber(at) && !VALUE_STARTS.includes(this.#byte(at))) this.#unexpected(at, 'a value')
  }

  /** Refuses what is here. */
  #unexpected(at: number, expected: string): never {
    const byte = this.#byte(at)
    const isPrintable = byte > SPACE && byte < 0x7f
    const name = isPrintable
      ? `'${String.fromCharCode(byte)}'`
      : `byte 0x${byte.toString(16).padStart(2, '0')}`
    throw new InvalidJson(`found ${at < this.#end ? name : 'the end'} at offset ${at}, expected ${expected}`)
  }
}

/** Of the arrays and objects that skip() is in, by depth: the brackets that close them. */
const closers = new Uint8Array(MAX_DEPTH)

/** Longer than any name or id, every character of which is escaped. */
const MAX_ESCAPED_LENGTH = 255
/** Where strings are put that have escapes and are to be compared. */
const scratch = Buffer.alloc(MAX_ESCAPED_LENGTH + 1)
const scratchView = new DataView(scratch.buffer, scratch.byteOffset, scratch.byteLength)

/**
 * The high bits of those of four bytes that need a closer look inside a string: quotes, backslashes, control characters,
 * and what is not ASCII. The lowest bit set is exact; a borrow may have set bits above it.
 */
function specialBytes(word: number): number {
  // With its second bit flipped, a quote is next to the control characters.
  const isQuoteOrBelow = (word ^ 0x02_02_02_02) - 0x21_21_21_21
  const isBackslash = (word ^ 0x5c_5c_5c_5c) - 0x01_01_01_01
  return (isQuoteOrBelow | isBackslash | word) & 0x80_80_80_80
}

/** Whether specialBytes() of either is not 0. */
function hasSpecialBytes(word: number, next: number): boolean {
  const isQuoteOrBelow = ((word ^ 0x02_02_02_02) - 0x21_21_21_21) | ((next ^ 0x02_02_02_02) - 0x21_21_21_21)
  const isBackslash = ((word ^ 0x5c_5c_5c_5c) - 0x01_01_01_01) | ((next ^ 0x5c_5c_5c_5c) - 0x01_01_01_01)
  return ((isQuoteOrBelow | isBackslash | word | next) & 0x80_80_80_80) !== 0
}

/** The UTF-16 code unit that four hexadecimal digits stand for; more than 16 bits if one of them is none. */
function codeUnitAt(bytes: Uint8Array, at: number): number {
  const high = ((HEX[bytes[at] ?? 0] ?? 0) << 4) | (HEX[bytes[at + 1] ?? 0] ?? 0)
  const low = ((HEX[bytes[at + 2] ?? 0] ?? 0) << 4) | (HEX[bytes[at + 3] ?? 0] ?? 0)
  return (high << 8) | low
}

function isDigit(byte: number): boolean {
  return byte >= DIGIT_0 && byte <= DIGIT_9
}

function invalidUtf8(at: number): never {
  throw new InvalidJson(`invalid UTF-8 at offset ${at}`)
}
