// The JSON reader takes what JSON.parse and the schema take, with two intended differences, and says what is wrong.

import t from 'tap'
import { readJson } from '../../src/ingest/json.js'
import { cases } from '../helpers/effort.js'
import { compare, compareMany, read } from './differential.js'
import { bodyOf } from './json-bodies.js'

const CASES = cases({ suite: 20_000, soak: 2_000_000 })
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)

const IDS = {
  workspace_id: '0b5e9a1c-6a43-4d0c-8a35-0f2f4f1f7a10',
  owner_id: 'b1d3c6f0-0e65-4c8a-9a43-7d6d1f4f8f11',
}
const REQUEST = { method: 'GET', url: 'https://example.com/', matched_rule: 'any' }
const LOG = { allowed: true, time: '2026-01-31T12:30:00Z', sequence_number: 7, http_request: REQUEST }
const BATCH = { ...IDS, session_id: IDS.owner_id, confined_process_name: 'agent', logs: [LOG] }

t.test('bodies are accepted, refused and counted as JSON.parse and the schema would', async (t) => {
  const seen = compareMany(CASES, SEED)
  t.ok(seen.accepted > CASES / 10 && seen.refused > CASES / 10, JSON.stringify(seen))
  t.comment(`seed ${SEED}: ${JSON.stringify(seen)}`)
})

t.test('a body that is cut anywhere is refused', async (t) => {
  const bodies: Buffer[] = [JSON.stringify(BATCH), JSON.stringify(BATCH, undefined, 2)].map((text) =>
    Buffer.from(text),
  )
  // Spelled in all ways; the first that are accepted.
  for (let seed = 1; bodies.length < 20; seed++) if ('batch' in read(bodyOf(seed))) bodies.push(bodyOf(seed))
  for (const body of bodies) {
    const text = body.toString().trimEnd()
    for (let length = 0; length < Buffer.byteLength(text); length++)
      if (compare(body.subarray(0, length)) !== 'refused') t.fail(`${length} bytes of ${text}`)
  }
})

t.test('intended: a second member of a known name is refused, in every object and spelling', async (t) => {
  const objects: [object, string, (object: string) => string][] = [
    [BATCH, '', (batch) => batch],
    [
      LOG,
      '/logs/1',
      (log) =>
        JSON.stringify({ ...BATCH, logs: [{ allowed: true, sequence_number: 1 }, 0] }).replace(
          /0\]/,
          `${log}]`,
        ),
    ],
    [
      REQUEST,
      '/logs/0/http_request',
      (request) =>
        JSON.stringify({ ...BATCH, logs: [{ ...LOG, http_request: 0 }] }).replace(/0\}\]/, `${request}}]`),
    ],
  ]
  for (const [object, path, within] of objects)
    for (const [name, value] of Object.entries(object)) {
      const escaped = `\\u${name.charCodeAt(0).toString(16).padStart(4, '0')}${name.slice(1)}`
      for (const twin of [name, escaped]) {
        const text = JSON.stringify(object).replace(/\}$/, `,"${twin}":${JSON.stringify(value)}}`)
        const body = Buffer.from(within(text))
        t.equal(compare(body), 'intended', text)
        t.match(read(body), { code: 'INVALID_BODY', message: `${path}/${name} occurs twice` })
      }
    }
  t.equal(
    compare(Buffer.from(JSON.stringify(BATCH).replaceAll('{', '{"x":1,"x":{"allowed":1,"allowed":2},'))),
    'accepted',
  )
})

t.test('intended: nesting is read to a depth of 64, wherever it is', async (t) => {
  const places: [number, (value: string) => string][] = [
    [1, (value) => JSON.stringify({ x: 0, ...BATCH }).replace('0', value)],
    [3, (value) => JSON.stringify({ ...BATCH, logs: [{ x: 0, ...LOG }] }).replace('"x":0', `"x":${value}`)],
    [
      4,
      (value) =>
        JSON.stringify({ ...BATCH, logs: [{ ...LOG, http_request: { x: 0, ...REQUEST } }] }).replace(
          '"x":0',
          `"x":${value}`,
        ),
    ],
  ]
  for (const [outside, at] of places)
    for (const [open, close] of [
      ['[', ']'],
      ['{"x":', '}'],
      [' [ 1 , ', ' ] '],
    ] as const) {
      const nested = (depth: number) => Buffer.from(at(`${open.repeat(depth)}null${close.repeat(depth)}`))
      t.equal(compare(nested(64 - outside)), 'accepted', `${open} to 64`)
      t.equal(compare(nested(65 - outside)), 'intended', `${open} to 65`)
      t.match(read(nested(65 - outside)), {
        code: 'INVALID_JSON',
        message: /nesting deeper than 64 at offset \d+$/,
      })
    }
  for (const open of ['[', '{"x":', '{"logs":['])
    t.match(read(Buffer.from(`{"x":${open.repeat(1_000_000)}`)), { code: /INVALID/ })
})

t.test('a refusal names the field and the log, or what was found and where', async (t) => {
  const log = (fields: object) =>
    JSON.stringify({
      ...BATCH,
      logs: [
        { ...LOG, sequence_number: 0 },
        { ...LOG, ...fields },
      ],
    })
  const refusals: [string, string, string][] = [
    [log({ allowed: 'yes' }), 'INVALID_BODY', '/logs/1/allowed must be a boolean'],
    [log({ allowed: undefined }), 'INVALID_BODY', '/logs/1/allowed is required'],
    [log({ sequence_number: 1.5 }), 'INVALID_BODY', '/logs/1/sequence_number must be an integer'],
    [log({ sequence_number: '1' }), 'INVALID_BODY', '/logs/1/sequence_number must be an integer'],
    [log({ time: 'now' }), 'INVALID_BODY', '/logs/1/time must be an RFC 3339 date-time'],
    [log({ http_request: 'GET' }), 'INVALID_BODY', '/logs/1/http_request must be an object'],
    [log({ http_request: { method: 'GET' } }), 'INVALID_BODY', '/logs/1/http_request/url is required'],
    [
      log({ http_request: { ...REQUEST, url: 1 } }),
      'INVALID_BODY',
      '/logs/1/http_request/url must be a string',
    ],
    [log({ sequence_number: 0 }), 'INVALID_BODY', '/logs/1/sequence_number is the same as that of /logs/0'],
    [
      log({ sequence_number: undefined }),
      'INVALID_BODY',
      '/logs/1/sequence_number is required with a session_id',
    ],
    [
      log({ sequence_number: 2 ** 53 - 1 }),
      'INVALID_BODY',
      '/logs/1/sequence_number must be between 0 and 9007199254740990 with a session_id',
    ],
    [JSON.stringify({ ...BATCH, session_id: 'x' }), 'INVALID_BODY', '/session_id must be a UUID'],
    [JSON.stringify({ ...BATCH, logs: {} }), 'INVALID_BODY', '/logs must be an array'],
    [JSON.stringify({ ...BATCH, logs: [1] }), 'INVALID_BODY', '/logs/0 must be an object'],
    [
      JSON.stringify({ ...BATCH, logs: Array(1_001).fill({ allowed: true }) }),
      'INVALID_BODY',
      '/logs must have at most 1000 items',
    ],
    [JSON.stringify(IDS), 'INVALID_BODY', '/logs is required'],
    ['[]', 'INVALID_BODY', 'the body must be an object'],
    ['', 'INVALID_JSON', 'found the end at offset 0, expected a value'],
    ['{"logs":[}', 'INVALID_JSON', "found '}' at offset 9, expected a value"],
    ['{"logs":[],}', 'INVALID_JSON', "found '}' at offset 11, expected a name in double quotes"],
    ['{"logs":[] "x":1}', 'INVALID_JSON', `found '"' at offset 11, expected "," or "}"`],
    ['{"x":"a\nb"}', 'INVALID_JSON', 'found byte 0x0a at offset 7, expected the end of the string'],
    ['{"x":"\\q"}', 'INVALID_JSON', "found 'q' at offset 7, expected an escape"],
    ['{"x":01}', 'INVALID_JSON', `found '1' at offset 6, expected "," or "}"`],
    ['{"x":-}', 'INVALID_JSON', "found '}' at offset 6, expected a digit"],
    ['{"logs":[]}x', 'INVALID_JSON', "found 'x' at offset 11, expected the end"],
  ]
  for (const [body, code, message] of refusals) {
    const found = read(Buffer.from(body))
    t.strictSame(found, {
      code,
      message: code === 'INVALID_JSON' ? `the body is not valid JSON: ${message}` : message,
    })
  }
  const notUtf8 = Buffer.concat([Buffer.from('{"x":"a'), Buffer.from([0xc3, 0x28])])
  t.match(read(notUtf8), { message: 'the body is not valid JSON: invalid UTF-8 at offset 7' })
})

t.test('numbers become runs with their decisions, in whatever order they come', async (t) => {
  const numbersOf = (logs: [allowed: boolean, number: number, isKnown?: boolean][]) =>
    readJson(
      Buffer.from(
        JSON.stringify({
          ...BATCH,
          logs: logs.map(([allowed, sequence_number, isKnown = true]) => ({
            allowed,
            sequence_number,
            ...(isKnown && { http_request: REQUEST }),
          })),
        }),
      ),
    ).numbers
  t.strictSame(numbersOf([]), [])
  const ordered: Parameters<typeof numbersOf>[0] = [
    [true, 0],
    [true, 1],
    [false, 2],
    [true, 3],
    [true, 4],
    [false, 5, false],
    [true, 8],
  ]
  const expected = [0, 2, 0, 2, 3, 1, 3, 5, 0, 5, 6, 2, 8, 9, 0]
  t.strictSame(numbersOf(ordered), expected)
  t.strictSame(numbersOf(ordered.toReversed()), expected)
  t.strictSame(numbersOf([...ordered.slice(3), ...ordered.slice(0, 3)]), expected)
  const highest = Array.from({ length: 100 }, (_, n) => Number.MAX_SAFE_INTEGER - 100 + n)
  for (const number of highest) t.strictSame(numbersOf([[true, number]]), [number, number + 1, 0])
  const minusZero = JSON.stringify({ ...BATCH, logs: [LOG] }).replace(':7', ':-0')
  t.strictSame(readJson(Buffer.from(minusZero)).numbers, [0, 1, 0])
  const { session_id: _, ...without } = BATCH
  t.equal(readJson(Buffer.from(JSON.stringify({ ...without, logs: [LOG, LOG] }))).numbers, undefined)
})

t.test('a batch is read the same at any offset of its memory, and nothing behind it is read', async (t) => {
  const body = Buffer.from(JSON.stringify(BATCH))
  const expected = readJson(body)
  for (let offset = 0; offset < 16; offset++) {
    const memory = Buffer.alloc(offset + body.length + 16, '"')
    body.copy(memory, offset)
    t.strictSame(readJson(memory.subarray(offset, offset + body.length)), expected)
    t.match(read(memory.subarray(offset, offset + body.length - 1)), {
      code: 'INVALID_JSON',
      message: /found the end/,
    })
  }
})
