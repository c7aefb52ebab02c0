// Bodies for the JSON reader, by seed: batches in every spelling that JSON allows, with faults, and bytes made of them.

/** A small random number generator (mulberry32), so that a seed alone repeats a body. */
class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed
  }

  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let bits = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits
    return ((bits ^ (bits >>> 14)) >>> 0) % limit
  }

  oneIn(times: number): boolean {
    return this.below(times) === 0
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)] as T
  }
}

const UUIDS = [
  '0b5e9a1c-6a43-4d0c-8a35-0f2f4f1f7a10',
  'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF',
  '00000000-0000-0000-0000-000000000000',
]
const NO_UUIDS = [
  '',
  'agent',
  `${UUIDS[0]}0`,
  UUIDS[0]?.slice(1),
  `${UUIDS[0]}\n`,
  '0b5e9a1c6a434d0c8a350f2f4f1f7a10',
]
const TIMES = [
  '2026-01-31T12:30:00Z',
  '2026-01-31t12:30:00.123456789z',
  '2024-02-29T23:59:60-12:00',
  '0000-02-29T00:00:00+23:59',
]
const NO_TIMES = [
  '',
  '2026-01-31',
  '2026-02-29T12:30:00Z',
  '2026-13-01T12:30:00Z',
  '2026-01-31T24:00:00Z',
  '2026-01-31T12:30:00.Z',
  '2026-01-31T12:30:00+0100',
  ' 2026-01-31T12:30:00Z',
  '2026-01-31T12:30:00Z ',
]
const TEXTS = [
  '',
  'GET',
  'https://example.com/?q=1',
  'exämple',
  '\u2028',
  '😀 \ud800',
  'a"b\\c/d',
  '\b\f\n\r\t\u0000\u007f',
]
const INTEGERS = ['0', '-0', '1.0', '1e2', '20E-1', '0.5e1', '7e+0', '9007199254740990', '9007199254740990.0']
const NO_NUMBERS_OF_SESSIONS = [
  '-1',
  '9007199254740991',
  '9007199254740992',
  '1e300',
  '123456789012345678901234567890',
]
const NO_INTEGERS = ['1.5', '1e-1', '1e999', '-1e999', '0.1', '9007199254740990.6e-1']
/** What is no JSON, and what is close to it. */
const FRAGMENTS = [
  ...[
    '"',
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    ' ',
    '\\',
    '\\u',
    '\\u12',
    '\\x',
    '/',
    '//',
    '\n',
    '\0',
    '\u00a0',
    '\ufeff',
  ],
  ...[
    'null',
    'true',
    'false',
    'nul',
    'NaN',
    'Infinity',
    'undefined',
    '01',
    '1.',
    '.5',
    '+1',
    '1e',
    '-',
    '0x1',
    "'a'",
  ],
  ...[
    '"\\ud800"',
    '"\\u0000"',
    '{}',
    '[]',
    '[1,]',
    '{"a":1,}',
    '{"a"}',
    '"allowed":true',
    '"__proto__":{"logs":[]}',
  ],
]
const NOT_UTF8 = [
  '80',
  'bf',
  'c0af',
  'c3',
  'e08080',
  'eda080',
  'f08080af',
  'f4908080',
  'f5808080',
  'ff',
  'e282',
  'f09f98',
]

/** A body of one of the kinds below. */
export function bodyOf(seed: number): Buffer {
  const random = new Random(seed)
  const body = new Writer(random).batch()
  switch (random.below(10)) {
    case 0:
    case 1:
    case 2:
      return body
    case 3:
      return body.subarray(0, random.below(body.length + 1))
    case 4:
      return splice(random, body, new Writer(random).batch())
    case 5:
      return encode(random, body)
    default:
      return mutate(random, body)
  }
}

function splice(random: Random, one: Buffer, other: Buffer): Buffer {
  return Buffer.concat([
    one.subarray(0, random.below(one.length + 1)),
    other.subarray(random.below(other.length + 1)),
  ])
}

function encode(random: Random, body: Buffer): Buffer {
  const text = body.toString()
  return random.pick([
    Buffer.from(text, 'utf16le'),
    Buffer.from(`\ufeff${text}`, 'utf16le'),
    Buffer.from(text, 'utf16le').swap16(),
    Buffer.from(text, 'latin1'),
    Buffer.from(`\ufeff${text}`),
    Buffer.from(`\ufeff\ufeff${text}`),
    Buffer.from(` \ufeff${text}`),
  ])
}

function mutate(random: Random, body: Buffer): Buffer {
  let bytes = body
  for (let edits = 1 + random.below(3); edits > 0; edits--) {
    const at = random.below(bytes.length + 1)
    const put = random.pick([
      () => Buffer.from(random.pick(FRAGMENTS)),
      () => Buffer.from(random.pick(NOT_UTF8), 'hex'),
      () => Buffer.from([random.below(256)]),
      () => bytes.subarray(at, at + random.below(20)), // again
      () => Buffer.alloc(0),
    ])()
    bytes = Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at + random.pick([0, 0, 1, 1, 2, 8]))])
  }
  return bytes
}

/** Writes a batch: mostly a valid one, and about as often as not with a fault somewhere. */
class Writer {
  readonly #random: Random
  /** One fault in so many values, on average. */
  readonly #faults: number
  readonly #isSpaced: boolean
  readonly #isEscaped: boolean

  constructor(random: Random) {
    this.#random = random
    this.#faults = random.pick([1_000_000, 1_000_000, 200, 30])
    this.#isSpaced = random.oneIn(3)
    this.#isEscaped = random.oneIn(3)
  }

  batch(): Buffer {
    const random = this.#random
    const hasSession = random.oneIn(2)
    const length = random.pick([0, 1, 2, 3, 5, 8, random.oneIn(300) ? 1_001 : 4])
    const isShuffled = random.oneIn(4)
    let number = random.pick([0, 17, 9_007_199_254_740_900])
    const logs = Array.from({ length }, () => {
      if (!random.oneIn(20)) number += random.pick([1, 1, 1, 1, 2, 7])
      return { text: this.#log(number, hasSession), rank: isShuffled ? random.below(1_000) : 0 }
    })
    const text = this.#object([
      ['workspace_id', () => this.#string(random.pick(UUIDS), NO_UUIDS), 8],
      ['owner_id', () => this.#string(random.pick(UUIDS), NO_UUIDS), 8],
      ['session_id', () => this.#string(random.pick(UUIDS), NO_UUIDS), hasSession ? 100 : 0],
      ['confined_process_name', () => this.#string(random.pick(TEXTS)), 2],
      ['logs', () => this.#array(logs.sort((a, b) => a.rank - b.rank).map(({ text }) => text)), 100],
    ])
    return Buffer.from(`${this.#space()}${text}${this.#space()}`)
  }

  #log(number: number, hasSession: boolean): string {
    const random = this.#random
    return this.#or(() =>
      this.#object([
        ['allowed', () => this.#or(() => random.pick(['true', 'false'])), 100],
        ['time', () => this.#string(random.pick(TIMES), NO_TIMES), 2],
        ['sequence_number', () => this.#number(number, hasSession), hasSession ? 100 : 2],
        ['http_request', () => this.#or(() => this.#request()), 4],
      ]),
    )
  }

  #request(): string {
    const text = () => this.#string(this.#random.pick(TEXTS))
    return this.#object([
      ['method', text, 100],
      ['url', text, 100],
      ['matched_rule', text, 2],
    ])
  }

  #number(number: number, hasSession: boolean): string {
    const random = this.#random
    return this.#or(() => {
      if (this.#isFault()) return random.pick([...NO_INTEGERS, ...NO_NUMBERS_OF_SESSIONS])
      if (!hasSession) return random.pick([...INTEGERS, ...NO_NUMBERS_OF_SESSIONS])
      if (number > 1e15) return String(number)
      return random.pick([String(number), String(number), `${number}.0`, `${number}e0`, `${number}00E-2`])
    })
  }

  #string(text: string, faulty: readonly (string | undefined)[] = []): string {
    const isFaulty = faulty.length > 0 && this.#isFault()
    return this.#or(() => this.#write(isFaulty ? (this.#random.pick(faulty) ?? '') : text))
  }

  /** Each member with its value and how many times in a hundred it is there; some that nobody knows besides. */
  #object(members: [name: string, value: () => string, times: number][]): string {
    const random = this.#random
    const written = members
      .filter(([, , times]) => (times === 100 ? !this.#isFault() : times > 0 && !random.oneIn(times)))
      .map(([name, value]) => this.#member(name, value()))
    while (random.oneIn(6))
      written.splice(
        random.below(written.length + 1),
        0,
        this.#member(random.pick(['', 'later', 'logs_', 'tim', '__proto__']), this.#value(3)),
      )
    if (random.oneIn(4)) written.reverse()
    return `{${this.#space()}${written.join(`${this.#space()},${this.#space()}`)}${this.#space()}}`
  }

  #member(name: string, value: string): string {
    return `${this.#write(name)}${this.#space()}:${this.#space()}${value}`
  }

  #array(elements: string[]): string {
    return this.#or(
      () => `[${this.#space()}${elements.join(`${this.#space()},${this.#space()}`)}${this.#space()}]`,
    )
  }

  /** Any value. */
  #value(depth: number): string {
    const random = this.#random
    const elements = () => Array.from({ length: random.below(3) }, () => this.#value(depth - 1))
    return random.pick([
      () => random.pick(['null', 'true', 'false']),
      () => random.pick([...INTEGERS, ...NO_INTEGERS]),
      () => this.#write(random.pick(TEXTS)),
      () => (depth > 0 ? this.#array(elements()) : '[]'),
      () =>
        depth > 0
          ? `{${elements()
              .map((value) => this.#member(random.pick(['allowed', 'x', '']), value))
              .join(',')}}`
          : '{}',
    ])()
  }

  #or(value: () => string): string {
    return this.#isFault() ? this.#value(2) : value()
  }

  #isFault(): boolean {
    return this.#random.oneIn(this.#faults)
  }

  #write(text: string): string {
    const random = this.#random
    if (!this.#isEscaped) return JSON.stringify(text)
    const units = [...Array(text.length).keys()].map((n) => text.charCodeAt(n))
    // Lone surrogates have no UTF-8.
    const isLone = /[\ud800-\udfff]/.test(text)
    return `"${units.map((unit) => (isLone || random.oneIn(4) || unit < 0x20 || unit === 0x22 || unit === 0x5c ? this.#escape(unit) : String.fromCharCode(unit))).join('')}"`
  }

  #escape(unit: number): string {
    const short = { 8: '\\b', 9: '\\t', 10: '\\n', 12: '\\f', 13: '\\r', 34: '\\"', 47: '\\/', 92: '\\\\' }[
      unit
    ]
    if (short && this.#random.oneIn(2)) return short
    const hex = unit.toString(16).padStart(4, '0')
    return `\\u${this.#random.oneIn(2) ? hex : hex.toUpperCase()}`
  }

  #space(): string {
    return this.#isSpaced ? this.#random.pick(['', '', ' ', '\n', '\r\n', '\t', '    ']) : ''
  }
}
