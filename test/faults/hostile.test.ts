// Hostile clients: whatever they send or leave unsent gets a 4xx response, counts nothing and takes no memory.

import { once } from 'node:events'
import { Agent, request as httpRequest } from 'node:http'
import { connect, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { testDatabase } from '../helpers/database.js'
import { cases } from '../helpers/effort.js'
import { startProcess } from '../helpers/process.js'
import { exchange, head } from '../helpers/raw.js'
import { batch, logs, type Replica, startReplica } from '../helpers/replica.js'
import { anyText } from '../helpers/text.js'
import { until } from '../helpers/until.js'

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
const MB = 1024 * 1024
const BODY_LIMIT = MB

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

interface HttpRequest {
  headers: [string, string][]
  body: Buffer
}

const valid = Buffer.from(JSON.stringify(batch({ logs: logs(3, 2) })))

/** A valid batch with some bytes of it replaced, put in, or taken out. */
const mutated = fc
  .array(
    fc.record({
      at: fc.nat(valid.length),
      drop: fc.nat(8),
      put: fc.oneof(
        fc.uint8Array({ maxLength: 6 }).map(Buffer.from),
        fc
          .constantFrom('"', '{', '}', '[', ']', ',', 'null', '\\u0000', '\\', '1e999', '"__proto__":')
          .map(Buffer.from),
      ),
    }),
    { minLength: 1, maxLength: 4 },
  )
  .map((edits) =>
    edits.reduce(
      (bytes, { at, drop, put }) => Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at + drop)]),
      valid,
    ),
  )

/** A valid batch in which one value, at any depth, is another. */
const retyped = fc
  .record({ path: fc.nat(100), value: fc.oneof(fc.jsonValue(), anyText(10)) })
  .map(({ path, value }) => {
    const places: [Record<string, unknown>, string][] = []
    const whole: Record<string, unknown> = { body: JSON.parse(valid.toString()) }
    const walk = (holder: Record<string, unknown>) => {
      for (const [key, child] of Object.entries(holder)) {
        places.push([holder, key])
        if (typeof child === 'object' && child) walk(child as Record<string, unknown>)
      }
    }
    walk(whole)
    const [holder, key] = places[path % places.length] ?? [whole, 'body']
    holder[key] = value
    return Buffer.from(JSON.stringify(whole.body))
  })

const nested = fc
  .tuple(fc.constantFrom('[', '{"a":', '{"logs":['), fc.nat(20_000))
  .map(([open, depth]) => Buffer.from(open.repeat(depth)))

const bodies = fc.oneof(
  { weight: 4, arbitrary: mutated },
  { weight: 4, arbitrary: retyped },
  { weight: 1, arbitrary: nested },
  { weight: 1, arbitrary: fc.json().map(Buffer.from) },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 2_000 }).map(Buffer.from) },
)

/** Characters that a header's value may hold. */
const headerValue = fc.string({
  unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)),
  maxLength: 60,
})
const headers = fc.array(
  fc.oneof(
    fc.tuple(
      fc.constantFrom(
        ...[
          'content-type',
          'content-encoding',
          'accept',
          'accept-encoding',
          'authorization',
          'x-forwarded-for',
        ],
        ...['x-request-id', 'range', 'if-match', 'cookie', 'origin', 'te', '__proto__', 'constructor'],
      ),
      fc.oneof(
        headerValue,
        fc.constantFrom(
          'gzip',
          'gzip, gzip',
          'br',
          'application/json; charset=utf-16',
          'application/json;',
          '*/*',
        ),
      ),
    ),
    fc.tuple(fc.stringMatching(/^x-[a-z]{1,20}$/), headerValue),
  ),
  { maxLength: 4 },
)

const requests: fc.Arbitrary<HttpRequest> = fc
  .record({ body: bodies, headers, encoding: fc.constantFrom('none', 'none', 'gzip', 'cut', 'flipped') })
  .map(({ body, headers, encoding }) => {
    const all: [string, string][] = [['content-type', 'application/json'], ...headers]
    if (encoding === 'none') return { headers: all, body }
    const packed = gzipSync(body)
    if (encoding === 'flipped')
      packed.writeUInt8(packed.readUInt8(packed.length >> 1) ^ 0x10, packed.length >> 1)
    const sent = encoding === 'cut' ? packed.subarray(0, packed.length - 5) : packed
    return { headers: [...all, ['content-encoding', 'gzip']], body: sent }
  })

/** What the replica holds, in requests and ids. */
function held({ app }: Replica) {
  return { ...app.counting.tracker.unflushed, ...app.counting.tracker.tracked }
}

async function usedBytes(): Promise<number> {
  // The last responses release memory, and what they referenced does so afterwards.
  for (let pass = 0; pass < 3; pass++) {
    await sleep(50)
    collectGarbage()
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

function send(
  agent: Agent,
  url: string,
  { headers, body }: HttpRequest,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const merged: Record<string, string> = Object.create(null)
    for (const [name, value] of headers) merged[name] = value
    const request = httpRequest(
      `${url}/boundary/logs`,
      { method: 'POST', agent, headers: { ...merged, 'content-length': body.length } },
      (response) => {
        let text = ''
        response.setEncoding('utf8').on('data', (chunk) => {
          text += chunk
        })
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
      },
    )
    request.on('error', reject)
    request.end(body)
  })
}

t.test('malformed requests: no 5xx, and only what was answered 202 is counted', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const agent = new Agent({ keepAlive: true, maxSockets: 20 })
  t.teardown(() => agent.destroy())
  const seen: Record<number, number> = {}
  const run = (numRuns: number, seed: number) =>
    fc.assert(
      fc.asyncProperty(fc.array(requests, { minLength: 20, maxLength: 20 }), async (group) => {
        const before = held(replica)
        const answers = await Promise.all(group.map((each) => send(agent, replica.url, each)))
        let [allowed, denied] = [before.allowed, before.denied]
        for (const { status, text } of answers) {
          seen[status] = (seen[status] ?? 0) + 1
          if (status < 200 || status >= 500) throw new Error(`${status}: ${text}`)
          const answer = JSON.parse(text)
          if (status === 202) {
            allowed += answer.allowed
            denied += answer.denied
          } else if (typeof answer.message !== 'string' || answer.statusCode !== status)
            throw new Error(`no error of ours: ${text}`)
        }
        const after = held(replica)
        if (after.allowed !== allowed || after.denied !== denied)
          throw new Error(`counted ${JSON.stringify(after)}, answered ${JSON.stringify({ allowed, denied })}`)
      }),
      { numRuns, seed },
    )

  const groups = cases({ suite: 30, soak: 250 })
  await run(groups, SEED) // warm: compiled code and pools are no growth
  const before = await usedBytes()
  const growth = []
  for (let part = 1; part <= 3; part++) {
    await run(groups, SEED + part)
    growth.push((await usedBytes()) - before)
  }
  // Memory that a request kept would remain after each part.
  t.ok(Math.min(...growth) < 4 * MB, `grew by ${growth.map((bytes) => (bytes / MB).toFixed(1))} MB`)
  const answered = Object.values(seen).reduce((sum, count) => sum + count, 0)
  t.equal(answered, 4 * groups * 20, `seed ${SEED}; answers by status: ${JSON.stringify(seen)}`)
  t.ok((seen[400] ?? 0) > answered / 4, 'many of them are answered 400')
})

t.test('requests that are no HTTP: answered or closed, nothing counted', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, { REQUEST_TIMEOUT_MS: '1000' })
  const line = fc.oneof(
    anyText(40),
    fc.constantFrom(
      ...['content-length: -1', 'content-length: 1e3', 'content-length: 10\r\ncontent-length: 20', 'host:'],
      ...[
        'transfer-encoding: chunked',
        'transfer-encoding: gzip, chunked',
        'expect: 100-continue',
        'upgrade: h2c',
      ],
      ...[`x: ${'y'.repeat(20_000)}`, ': empty', 'a b: c', 'connection: upgrade'],
    ),
  )
  const start = fc.constantFrom(
    ...['POST /boundary/logs HTTP/1.1', 'POST /boundary/logs HTTP/1.0', 'POST /boundary/logs HTTP/9.9'],
    ...['GET /boundary/logs HTTP/1.1', 'POST //boundary/logs HTTP/1.1', 'POST /boundary/%2e%2e/x HTTP/1.1'],
    ...['PRI * HTTP/2.0', 'POST', '', 'POST /%ff%fe HTTP/1.1', `POST /${'a'.repeat(20_000)} HTTP/1.1`],
  )
  const before = held(replica)
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ start, lines: fc.array(line, { maxLength: 4 }), body: mutated }), {
        minLength: 20,
        maxLength: 20,
      }),
      async (group) => {
        const answers = await Promise.all(
          group.map(({ start, lines, body }) => {
            const head = [
              start,
              'content-type: application/json',
              ...lines,
              'connection: close',
              '',
              '',
            ].join('\r\n')
            return exchange(replica.url, Buffer.concat([Buffer.from(head), body]))
          }),
        )
        for (const answer of answers)
          if (answer !== '' && !/^HTTP\/1\.1 (1|4)\d\d /.test(answer)) throw new Error(answer)
      },
    ),
    { numRuns: cases({ suite: 30, soak: 100 }), seed: SEED },
  )
  t.strictSame(held(replica), before, `seed ${SEED}`)
  t.equal((await replica.send()).status, 202, 'and it goes on serving')
})

t.test('pipelined requests are answered in order and counted one by one', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const good = Buffer.from(JSON.stringify(batch()))
  const bad = Buffer.from('{"logs":')
  const pieces = Array.from({ length: 33 }, (_, n) => {
    const body = n % 3 === 0 ? bad : good
    return Buffer.concat([Buffer.from(head(body.length, n === 32 ? { connection: 'close' } : {})), body])
  })
  const answer = await exchange(replica.url, Buffer.concat(pieces))
  const statuses = [...answer.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status))
  t.strictSame(
    statuses,
    pieces.map((_, n) => (n % 3 === 0 ? 400 : 202)),
  )
  t.equal(held(replica).allowed, 22)
})

t.test('thousands of requests in a few packets neither end the process nor hold it up', async (t) => {
  const { url } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url }, { nodeOptions: ['--max-old-space-size=64'] })
  for (const path of [
    '/openapi.json',
    '/docs/json',
    '/metrics',
    '/',
    '/-/healthy',
    '/docs/static/index.css',
  ]) {
    const request = `GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`
    const connections = cases({ suite: 8, soak: 20 })
    await stall(t, service.url, connections, request.repeat(65_000 / request.length), {
      reopen: false,
      read: false,
    })
  }
  for (let n = 0; n < 20; n++) t.equal((await service.send({ logs: logs(2, 1) })).status, 202)
  t.equal((await service.get('/-/ready')).status, 200)
})

t.test('headers of a few bytes hold little more than others', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const received: Socket[] = []
  replica.app.server.on('connection', (socket: Socket) => received.push(socket))
  const names = Array.from({ length: 2_000 }, (_, n) => `${(n + 100_000).toString(36)}:\r\n`).join('')
  const bytes = Buffer.from(`GET / HTTP/1.1\r\n${names}`)
  const connections = 200
  const before = await usedBytes()
  await stall(t, replica.url, connections, bytes, { reopen: false })
  const arrived = () => received.reduce((sum, { bytesRead }) => sum + bytesRead, 0)
  await until(() => arrived() === connections * bytes.length, { what: 'all headers to arrive' })
  const each = ((await usedBytes()) - before) / connections
  // Both ends of the connection are in this process.
  t.ok(each < 32_768, `${Math.round(each)} bytes`)
})

t.test('clients that disconnect in mid-body, at every place, count nothing and leave nothing', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const bytes = Buffer.concat([Buffer.from(head(valid.length)), valid])
  for (let from = 1; from < bytes.length; from += 50)
    await Promise.all(
      Array.from({ length: Math.min(50, bytes.length - from) }, (_, n) =>
        exchange(replica.url, bytes.subarray(0, from + n), { hangUp: true }),
      ),
    )
  t.strictSame(held(replica), { allowed: 0, denied: 0, workspaces: 0, users: 0 })
  // More than may be read at once, if what they had reserved were not given back.
  const chunked = head(0).replace('content-length: 0', 'transfer-encoding: chunked')
  for (let n = 0; n < 100; n++)
    await exchange(replica.url, Buffer.from(`${chunked}5\r\n{"wor`), { hangUp: true })
  t.equal((await replica.send()).status, 202)
  t.match(
    await (await replica.get('/metrics')).text(),
    /^boundary_usage_batches_total\{result="invalid"\} 0$/m,
    'nobody is said to have sent anything wrong',
  )
})

t.test('a request that is refused before its body is read reserves no memory', async (t) => {
  const { url } = await testDatabase(t)
  const token = 'agent-token-agent-token-1'
  const replica = await startReplica(t, url, {
    AGENT_TOKENS: token,
    ADMIN_TOKENS: 'admin-token-admin-token-1',
  })
  const authorization = `Bearer ${token}`
  const refusals: [Record<string, string>, number][] = [
    [{ authorization: 'Bearer unknown' }, 401],
    [{ authorization: 'Bearer admin-token-admin-token-1' }, 403],
    [{ authorization, 'content-type': 'text/plain' }, 415],
    [{ authorization, 'content-type': '' }, 415],
    [{ authorization, 'content-encoding': 'br' }, 415],
    [{ authorization, 'content-length': String(BODY_LIMIT + 1) }, 413],
  ]
  // More than may be read at once, if one of them kept its room.
  for (const [headers, status] of refusals)
    for (let n = 0; n < 70; n++) {
      const answer = await exchange(
        replica.url,
        `${head(BODY_LIMIT, { connection: 'close', ...headers })}{"wor`,
      )
      if (!answer.startsWith(`HTTP/1.1 ${status}`))
        t.fail(`${JSON.stringify(headers)}: ${answer.slice(0, 200)}`)
    }
  t.equal((await replica.send({}, { authorization })).status, 202)
})

t.test('thousands of connections, idle and half way through a body, do not keep others out', async (t) => {
  const { url } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url })
  const sockets: Socket[] = []
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
  })
  for (let n = 0; n < cases({ suite: 2_000, soak: 5_000 }); n += 250)
    await Promise.all(
      Array.from({ length: 250 }, async (_, i) => {
        const socket = connect(service.port, '127.0.0.1')
        sockets.push(socket)
        await once(socket, 'connect')
        socket.on('error', () => {})
        if (i % 2) socket.write(head(valid.length) + valid.subarray(0, 40))
      }),
    )
  for (let n = 0; n < 20; n++) t.equal((await service.send({ logs: logs(2, 1) })).status, 202)
  t.hasStrict(await (await service.get('/telemetry/snapshot')).json(), {
    allowed_requests: 40,
    denied_requests: 20,
  })
})

/**
 * Opens connections that each send `bytes`, and then nothing. Without other options, they read responses, and open again
 * when they are closed.
 */
async function stall(
  t: Test,
  url: string,
  connections: number,
  bytes: string | Buffer,
  { reopen = true, read = true } = {},
): Promise<void> {
  let isOver = false
  const sockets = new Set<Socket>()
  t.teardown(() => {
    isOver = true
    for (const socket of sockets) socket.destroy()
  })
  const open = async (): Promise<void> => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    sockets.add(socket)
    socket.on('error', () => {}) // close follows
    if (read) socket.resume()
    socket.on('close', () => {
      sockets.delete(socket)
      if (reopen && !isOver) void open()
    })
    await new Promise<void>((resolve) => socket.once('connect', resolve).once('close', () => resolve()))
    socket.write(bytes)
  }
  for (let n = 0; n < connections; n += 50)
    await Promise.all(Array.from({ length: Math.min(50, connections - n) }, open))
}

const TOKENS = { AGENT_TOKENS: 'agent-token-agent-token-1,agent-token-agent-token-2' }
const ADMIN_TOKENS = 'admin-token-admin-token-1'
const as = (n: number) => ({ authorization: `Bearer agent-token-agent-token-${n}` })
const chunk = (bytes: Buffer | string) =>
  Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), Buffer.from(bytes), Buffer.from('\r\n')])
const chunkedHead = (headers: Record<string, string>) =>
  Buffer.from(head(0, headers).replace('content-length: 0', 'transfer-encoding: chunked'))
const nearlyAll = Buffer.alloc(BODY_LIMIT - 100, ' ')

for (const [what, connections, bytes] of [
  ['chunked bodies of one byte', 300, Buffer.concat([chunkedHead(as(1)), chunk('{')])],
  ['large chunked bodies', 100, Buffer.concat([chunkedHead(as(1)), chunk(nearlyAll)])],
  ['large bodies with a length', 100, Buffer.concat([Buffer.from(head(BODY_LIMIT, as(1))), nearlyAll])],
  [
    'gzip bodies of one byte',
    300,
    Buffer.concat([chunkedHead({ ...as(1), 'content-encoding': 'gzip' }), chunk(Buffer.of(0x1f))]),
  ],
  ['headers without a token', 300, Buffer.from(head(1_000).slice(0, -2))],
  ['bodies that no token allows', 300, Buffer.from(`${head(1_000, { authorization: 'Bearer none' })}{`)],
] as const)
  t.test(`others' batches pass while one client holds ${what}`, async (t) => {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url, { ...TOKENS, ADMIN_TOKENS })
    await stall(t, replica.url, connections, bytes)
    const plain = JSON.stringify(batch({ logs: logs(3, 2) }))
    const large = JSON.stringify(batch({ logs: logs(3, 2), later: ' '.repeat(500_000) }))
    for (let n = 0; n < 3; n++)
      // Of another token, and of the same.
      for (const token of [1, 2])
        for (const [body, headers] of [
          [plain, {}],
          [gzipSync(plain), { 'content-encoding': 'gzip' }],
          [Readable.from([plain.slice(0, 50), plain.slice(50)]), {}],
          ...(token === 2
            ? ([[Readable.from([large.slice(0, 300_000), large.slice(300_000)]), {}]] as const)
            : []),
        ] as const) {
          const response = await fetch(`${replica.url}/boundary/logs`, {
            method: 'POST',
            headers: { 'content-type': 'application/json', ...headers, ...as(token) },
            body: body instanceof Readable ? (Readable.toWeb(body) as ReadableStream) : body,
            duplex: 'half',
          })
          if (response.status !== 202) t.fail(`${response.status} ${await response.text()}`)
          await response.body?.cancel()
        }
    t.equal((await replica.get('/-/ready')).status, 200)
    t.equal(held(replica).allowed, 3 * 21)
  })

t.test('a large batch in one-byte chunks is counted', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const body = JSON.stringify(batch({ logs: logs(120, 80) }))
  t.ok(body.length > 8_192, 'so many chunks that the connection rests')
  const chunks = [...body].map((byte) => chunk(byte))
  await stall(t, replica.url, 1, Buffer.concat([chunkedHead({}), ...chunks, chunk('')]))
  await until(() => held(replica).allowed > 0, { what: 'the batch' })
  t.strictSame(held(replica), { allowed: 120, denied: 80, workspaces: 1, users: 1 })
})

t.test('one-byte chunks do not end a process with a small heap', async (t) => {
  const { url } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url }, { nodeOptions: ['--max-old-space-size=96'] })
  for (const headers of [{}, { 'content-encoding': 'gzip' }]) {
    const chunks = '1\r\n \r\n'.repeat(cases({ suite: 60_000, soak: 900_000 }))
    const pieces = Buffer.concat([chunkedHead(headers), Buffer.from(chunks)])
    await stall(t, service.url, cases({ suite: 8, soak: 16 }), pieces)
  }
  for (let n = 0; n < 20; n++) {
    const { status } = await service.send({ logs: logs(2, 1) })
    t.ok(status === 202 || status === 503, `${status}`)
    await sleep(20)
  }
  await until(async () => (await service.send()).status === 202, { what: 'a batch to be accepted' })
})

t.test(
  'while the event loop is slow batches are 503 with Retry-After, and probes are answered',
  async (t) => {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url, {}, { maxEventLoopDelayMs: 100 })
    let isSlow = true
    const slow = () => {
      const end = performance.now() + 200
      while (performance.now() < end);
      if (isSlow) setTimeout(slow, 1)
    }
    slow()
    await untilAnswered(t, replica, 503)
    t.equal((await replica.get('/-/ready')).status, 200)
    isSlow = false
    await untilAnswered(t, replica, 202)
    t.equal(held(replica).denied, 0)
  },
)

/** Sends batches until one is answered `status`; what is 503 was not counted and says when to come back. */
async function untilAnswered(t: Test, replica: Replica, status: number): Promise<void> {
  await until(
    async () => {
      const before = held(replica)
      const response = await replica.send()
      if (response.status === 503) {
        t.equal(response.headers.get('retry-after'), '1')
        t.hasStrict(await response.json(), { code: 'OVERLOADED' })
        t.strictSame(held(replica), before)
      }
      return response.status === status
    },
    { what: `a batch to be answered ${status}` },
  )
}
