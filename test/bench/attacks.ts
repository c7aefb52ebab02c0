// npm run bench:attacks: what four connections that send what is most expensive for its length add to the response time
// of another client. Takes names of attacks; --server names another build to compare with.

import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { gzipSync } from 'node:zlib'
import { gzipWithEmptyBlocks } from '../helpers/gzip.js'
import { jwt } from '../helpers/jwt.js'
import { startPostgres } from '../helpers/postgres.js'
import { randomBatch } from './bodies.js'
import { AGENT, describeMachine, describePinning, median, pinLoad, row, startService } from './harness.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: 'string', default: '2' }, server: { type: 'string' } },
})
const SECONDS = Number(values.seconds)
const ATTACKERS = 4
/** The bound on the median: ten times what it is without an attack, or this, whichever is more. */
const BOUND_MS = 25
const LIMIT = 1_048_576
const ADMIN = 'admin-token-of-the-benchmark'

type Headers = Record<string, string>

function http(method: string, path: string, headers: Headers, body: Buffer | string = ''): Buffer {
  const lines = Object.entries({ host: 'localhost', ...headers }).map(
    ([name, value]) => `${name}: ${value}\r\n`,
  )
  return Buffer.concat([
    Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`),
    Buffer.from(body),
  ])
}

function post(body: Buffer, headers: Headers = {}, path = '/boundary/logs'): Buffer {
  const all = { authorization: `Bearer ${AGENT}`, 'content-type': 'application/json', ...headers }
  return http('POST', path, { ...all, 'content-length': String(body.length) }, body)
}

const gzipped = (body: Buffer, headers: Headers = {}) =>
  post(gzipSync(body, { level: 9 }), { 'content-encoding': 'gzip', ...headers })
const get = (path: string, headers: Headers = {}) => http('GET', path, headers)

/** A body just below the limit, in which an unknown member holds a value as often as there is room. */
function filled(value: string, size = LIMIT - 2_000): Buffer {
  return Buffer.from(`{"later":[${Array(Math.floor(size / (value.length + 1))).fill(value)}],"logs":[]}`)
}

const SHAPES: Record<string, string> = {
  'nested arrays': `${'['.repeat(60)}${']'.repeat(60)}`,
  'flat arrays': '[]',
  'many keys': '{"":0,"":0}',
  'many numbers': '0',
  'Unicode escapes': `"${'\\u0061'.repeat(1_000)}"`,
}

const PROTOBUF = {
  'content-type': 'application/x-protobuf',
  'x-workspace-id': randomBatch(0).workspace_id,
  'x-owner-id': randomBatch(0).owner_id,
}
/** Field 15, a number: unknown. */
const unknownFields = Buffer.alloc(LIMIT - 2_000, Buffer.of(0x78, 0x01))
const emptyLogs = Buffer.alloc(LIMIT - 2_000, Buffer.of(0x0a, 0x00))

function oneByteChunks(bytes: number): Buffer {
  const headers = {
    authorization: `Bearer ${AGENT}`,
    'content-type': 'application/json',
    'transfer-encoding': 'chunked',
  }
  return http('POST', '/boundary/logs', headers, `${'1\r\n \r\n'.repeat(bytes)}0\r\n\r\n`)
}

const KEYS: Record<string, string> = {
  HS256: 'a-secret-of-at-least-32-characters',
  RS256: publicKey(generateKeyPairSync('rsa', { modulusLength: 4096 }).publicKey),
  ES256: publicKey(generateKeyPairSync('ec', { namedCurve: 'prime256v1' }).publicKey),
  EdDSA: publicKey(generateKeyPairSync('ed25519').publicKey),
}
const SIGNATURE_BYTES: Record<string, number> = { HS256: 32, RS256: 512, ES256: 64, EdDSA: 64 }

function publicKey(key: { export(options: { type: 'spki'; format: 'pem' }): string | Buffer }): string {
  return String(key.export({ type: 'spki', format: 'pem' }))
}

/** Each with another payload, so that no cache knows it. */
function forged(algorithm: string, padding = 0): () => Buffer {
  return () => {
    const claims = { ...randomBatch(0), padding: 'x'.repeat(padding) }
    const signer = () => randomBytes(SIGNATURE_BYTES[algorithm] ?? 0)
    return post(Buffer.from('{}'), { authorization: `Bearer ${jwt(algorithm, signer, claims)}` })
  }
}

interface Attack {
  send: Buffer | (() => Buffer)
  env?: Record<string, string>
}

const attacks: Record<string, Attack> = {
  none: { send: Buffer.alloc(0) },
  ...Object.fromEntries(
    Object.entries(SHAPES).flatMap(([name, value]) => [
      [`JSON, ${name}`, { send: post(filled(value)) }],
      [`gzip, ${name}`, { send: gzipped(filled(value)) }],
    ]),
  ),
  'gzip, more than the limit': { send: gzipped(Buffer.alloc(1_000 * LIMIT, ' ')) },
  'gzip, white space': { send: gzipped(Buffer.concat([filled('0', 100), Buffer.alloc(LIMIT - 2_000, ' ')])) },
  'gzip, empty blocks': {
    send: post(gzipWithEmptyBlocks(filled('0', 100), LIMIT - 2_000), { 'content-encoding': 'gzip' }),
  },
  'gzip, empty blocks, 32 KB': {
    send: post(gzipWithEmptyBlocks(filled('0', 100), 32_000), { 'content-encoding': 'gzip' }),
  },
  'protobuf, unknown fields': { send: post(unknownFields, PROTOBUF) },
  'gzip of protobuf, unknown fields': { send: gzipped(unknownFields, PROTOBUF) },
  'gzip of protobuf, empty logs': { send: gzipped(emptyLogs, PROTOBUF) },
  'chunks of one byte': { send: oneByteChunks(200_000) },
  'query string': { send: post(Buffer.from('{}'), {}, `/boundary/logs?${'a=1&'.repeat(3_900)}`) },
  'query string of an admin route': { send: get(`/telemetry/usage?${'a=1&'.repeat(3_900)}`) },
  'query string, percent-encoded': { send: get(`/telemetry/usage?${'%61&'.repeat(3_900)}`) },
  'many headers': { send: http('GET', '/boundary/logs', { ...manyHeaders() }) },
  metrics: { send: get('/metrics') },
  'status page': { send: get('/') },
  'page, its largest file': { send: get('/page/uplot.js') },
  'OpenAPI document': { send: get('/openapi.json') },
  docs: { send: get('/docs/') },
  'docs, the largest file': { send: get('/docs/static/swagger-ui-bundle.js') },
  'docs, the document': { send: get('/docs/json') },
  'docs, the document as YAML': { send: get('/docs/yaml') },
  'unknown path': { send: get(`/${'a/'.repeat(7_000)}`) },
  'CSV of 1,000 buckets': {
    send: get('/telemetry/usage?from=2000-01-01T00:00:00Z&to=2002-01-01T00:00:00Z&by=day', {
      authorization: `Bearer ${ADMIN}`,
      accept: 'text/csv',
    }),
  },
  ...Object.fromEntries(
    Object.keys(KEYS).flatMap((algorithm) => {
      const env = { AGENT_JWT_KEY: KEYS[algorithm] ?? '', AGENT_JWT_ALGORITHM: algorithm }
      return [
        [`forged JWT, ${algorithm}`, { send: forged(algorithm), env }],
        [`forged JWT of 10 KB, ${algorithm}`, { send: forged(algorithm, 8_000), env }],
      ]
    }),
  ),
}

function manyHeaders(): Headers {
  return Object.fromEntries(Array.from({ length: 1_500 }, (_, n) => [`x-${n}`, '']))
}

const machine = `${describeMachine()}; ${describePinning()}`
pinLoad()
console.log(machine)
const postgres = await startPostgres({})
const names = positionals.length > 0 ? positionals : Object.keys(attacks)
let base = Number.NaN
try {
  row('', 'requests', 'KB sent/s', 'median ms', '99 % ms')
  for (const name of ['none', ...names.filter((name) => name !== 'none')]) {
    const attack = attacks[name]
    if (!attack) throw new Error(`no attack is named "${name}": ${Object.keys(attacks).join(', ')}`)
    await measure(name, attack)
  }
} finally {
  await postgres.remove()
}

async function measure(name: string, { send, env = {} }: Attack): Promise<void> {
  const server = await startService({ DATABASE_URL: postgres.url, ...env }, [], values.server)
  try {
    const victim = await connectTo(server.url)
    const good = post(Buffer.from(JSON.stringify(randomBatch(10))))
    for (let n = 0; n < 200; n++) await victim.exchange(good) // warm
    let isOver = false
    let sent = 0
    let requests = 0
    const attackers = Array.from({ length: name === 'none' ? 0 : ATTACKERS }, async () => {
      let connection = await connectTo(server.url)
      while (!isOver) {
        const bytes = typeof send === 'function' ? send() : send
        sent += bytes.length
        requests++
        if (!(await connection.exchange(bytes))) connection = await connectTo(server.url)
      }
      connection.close()
    })
    await sleep(300)
    const start = performance.now()
    const [sentBefore, requestsBefore] = [sent, requests]
    const times: number[] = []
    while (performance.now() - start < SECONDS * 1_000) {
      const from = performance.now()
      if (!(await victim.exchange(good))) throw new Error('the victim was disconnected')
      times.push(performance.now() - from)
      await sleep(2)
    }
    const seconds = (performance.now() - start) / 1_000
    isOver = true
    victim.close()
    const typical = median(times)
    if (name === 'none') base = typical
    const p99 = times.sort((a, b) => a - b)[Math.floor(times.length * 0.99)] ?? Number.NaN
    row(
      name.padEnd(40),
      ((requests - requestsBefore) / seconds).toFixed(0),
      ((sent - sentBefore) / 1_000 / seconds).toFixed(0),
      typical.toFixed(2),
      p99.toFixed(1),
      typical > Math.max(10 * base, BOUND_MS) ? 'over the bound' : '',
    )
    await Promise.all(attackers)
  } finally {
    await server.stop()
  }
}

interface Exchange {
  /** Sends one request; resolves with whether the connection is open after the response. */
  exchange(bytes: Buffer): Promise<boolean>
  close(): void
}

async function connectTo(url: string): Promise<Exchange> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  socket.setNoDelay(true)
  await once(socket, 'connect')
  let answered: (isOpen: boolean) => void = () => {}
  let head = ''
  let left = -1
  socket.on('error', () => {})
  socket.on('close', () => answered(false))
  socket.on('data', (chunk) => {
    if (left < 0) {
      head += chunk.toString('latin1')
      const end = head.indexOf('\r\n\r\n')
      if (end < 0) return
      const length = /content-length: (\d+)/i.exec(head.slice(0, end))?.[1]
      left = Number(length ?? 0) - (head.length - end - 4)
    } else left -= chunk.length
    if (left > 0) return
    const isOpen = !/connection: close/i.test(head)
    head = ''
    left = -1
    answered(isOpen)
  })
  return {
    exchange: (bytes) =>
      new Promise((resolve) => {
        answered = resolve
        if (socket.destroyed) resolve(false)
        else socket.write(bytes)
      }),
    close: () => socket.destroy(),
  }
}
