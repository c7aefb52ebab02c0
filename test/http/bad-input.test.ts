// Invalid requests: each is rejected with a message that says what is wrong, and counts nothing.

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { testDatabase } from '../helpers/database.js'
import { gzipOfSpaces } from '../helpers/gzip.js'
import { exchange, head } from '../helpers/raw.js'
import { allowedLog, batch, json, logs, type Replica, startReplica } from '../helpers/replica.js'

/** Runs `test` against a replica that has counted one batch, then checks that nothing else was counted and that it serves. */
async function countsNothing(
  t: Test,
  test: (replica: Replica) => Promise<void>,
  env: Record<string, string> = {},
): Promise<void> {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, env)
  await replica.send({ logs: logs(7, 5) })
  const { tracker } = replica.app.counting
  const before = { ...tracker.unflushed, ...tracker.tracked }
  await test(replica)
  t.strictSame({ ...tracker.unflushed, ...tracker.tracked }, before, 'nothing was counted')
  t.hasStrict(await json(replica.get('/telemetry/snapshot')), {
    unique_workspaces: 1,
    unique_users: 1,
    allowed_requests: 7,
    denied_requests: 5,
  })
  t.equal((await replica.send()).status, 202, 'the replica still serves')
}

async function rejected(t: Test, response: Response, status: number, message: RegExp): Promise<void> {
  t.equal(response.status, status, String(message))
  t.match(await response.json(), { statusCode: status, code: /^[A-Z_]+$/, error: /\w/, message })
}

function post(
  replica: Replica,
  body: NonNullable<RequestInit['body']>,
  headers: Record<string, string> = {},
): Promise<Response> {
  return fetch(`${replica.url}/boundary/logs`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body,
    ...(body instanceof ReadableStream && { duplex: 'half' }),
  })
}

t.test('wrong types and values in every field', async (t) => {
  const log = (fields: Record<string, unknown>) => ({
    logs: [allowedLog, allowedLog, { ...allowedLog, ...fields }],
  })
  const request = (fields: Record<string, unknown>) =>
    log({ http_request: { ...allowedLog.http_request, ...fields } })
  const id = randomUUID()
  const faults: [Record<string, unknown>, RegExp][] = [
    [{ workspace_id: undefined }, /^\/workspace_id is required/],
    [{ owner_id: undefined }, /^\/owner_id is required/],
    [{ logs: undefined }, /^\/logs is required/],
    ...['workspace_id', 'owner_id', 'session_id'].flatMap((field): [Record<string, unknown>, RegExp][] => [
      ...[null, 17, true, [id], {}].map((value): [Record<string, unknown>, RegExp] => [
        { [field]: value },
        new RegExp(`^/${field} must be a string`),
      ]),
      ...[
        '',
        'agent',
        id.slice(1),
        `${id}0`,
        `{${id}}`,
        `urn:uuid:${id}`,
        id.replaceAll('-', ''),
        ` ${id}`,
        `${id}\n`,
      ].map((value): [Record<string, unknown>, RegExp] => [
        { [field]: value },
        new RegExp(`^/${field} must be a UUID`),
      ]),
    ]),
    [{ confined_process_name: 17 }, /^\/confined_process_name must be a string/],
    ...[null, 17, 'none', {}, true].map((value): [Record<string, unknown>, RegExp] => [
      { logs: value },
      /^\/logs must be an array/,
    ]),
    ...[null, 17, 'log', true, []].map((value): [Record<string, unknown>, RegExp] => [
      { logs: [allowedLog, value] },
      /^\/logs\/1 must be an object/,
    ]),
    [{ logs: [{ http_request: allowedLog.http_request }] }, /^\/logs\/0\/allowed is required/],
    ...[null, 'true', 1, 0, [], {}].map((value): [Record<string, unknown>, RegExp] => [
      log({ allowed: value }),
      /^\/logs\/2\/allowed must be a boolean/,
    ]),
    ...[null, '17', 1.5, true, [], {}].map((value): [Record<string, unknown>, RegExp] => [
      log({ sequence_number: value }),
      /^\/logs\/2\/sequence_number must be an integer/,
    ]),
    ...[null, 17, true, []].map((value): [Record<string, unknown>, RegExp] => [
      log({ time: value }),
      /^\/logs\/2\/time must be a string/,
    ]),
    ...[null, 17, 'GET', []].map((value): [Record<string, unknown>, RegExp] => [
      log({ http_request: value }),
      /^\/logs\/2\/http_request must be an object/,
    ]),
    [log({ http_request: {} }), /^\/logs\/2\/http_request\/method is required/],
    ...['method', 'url', 'matched_rule'].flatMap((field) =>
      [null, 17, true, [], {}].map((value): [Record<string, unknown>, RegExp] => [
        request({ [field]: value }),
        new RegExp(`^/logs/2/http_request/${field} must be a string`),
      ]),
    ),
    [{ logs: logs(1001, 0) }, /^\/logs must have at most 1000 items/],
  ]
  await countsNothing(t, async (replica) => {
    for (const [fields, message] of faults) await rejected(t, await replica.send(fields), 400, message)
  })
})

t.test('invalid times are rejected, and valid ones at the limits are accepted', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const send = (time: string) => replica.send({ logs: [{ ...allowedLog, time }] })
  for (const time of [
    '',
    'yesterday',
    '2026-01-31',
    '12:30:00Z',
    '2026-01-31T12:30:00',
    '2026-01-31T12:30Z',
    '2026-13-01T12:30:00Z',
    '2026-00-01T12:30:00Z',
    '2026-02-29T12:30:00Z',
    '2026-02-30T12:30:00Z',
    '2026-04-31T12:30:00Z',
    '2100-02-29T12:30:00Z',
    '2026-01-00T12:30:00Z',
    '2026-01-32T12:30:00Z',
    '2026-01-31T24:00:00Z',
    '2026-01-31T12:60:00Z',
    '2026-01-31T12:30:61Z',
    '2026-01-31T12:30:00.Z',
    '2026-01-31T12:30:00+24:00',
    '2026-01-31T12:30:00+0100',
    '2026-01-31T12:30:00ZZ',
    ' 2026-01-31T12:30:00Z',
    '2026-01-31T12:30:00Z\n',
    '١٢٣٤-01-31T12:30:00Z',
  ])
    await rejected(t, await send(time), 400, /^\/logs\/0\/time must be an RFC 3339 date-time/)
  t.strictSame(replica.app.counting.tracker.unflushed, { allowed: 0, denied: 0 })
  for (const time of [
    '2026-01-31T12:30:00Z',
    '2026-01-31t12:30:00.123456789z',
    '2024-02-29T23:59:60-12:00',
    '2000-02-29T00:00:00+23:59',
    '0000-01-01T00:00:00Z',
  ])
    t.equal((await send(time)).status, 202, time)
})

t.test('bodies that are not a batch', async (t) => {
  const whole = JSON.stringify(batch())
  const nested = `{"deep":${'['.repeat(500_000)}${']'.repeat(500_000)},${whole.slice(1)}`
  await countsNothing(t, async (replica) => {
    await rejected(t, await post(replica, whole.slice(0, -20)), 400, /JSON/)
    await rejected(t, await post(replica, ''), 400, /the body is not valid JSON: found the end at offset 0/)
    const nothing = await fetch(`${replica.url}/boundary/logs`, { method: 'POST' })
    await rejected(t, nothing, 400, /the body must be an object/)
    await rejected(t, await post(replica, `\uFEFF\u0000${whole}`), 400, /JSON/)
    await rejected(t, await post(replica, whole.replace('true', 'NaN')), 400, /JSON/)
    await rejected(t, await post(replica, Buffer.from([0xff, 0xfe, 0x00])), 400, /JSON/)
    for (const value of ['null', '17', '"batch"', 'true', `[${whole}]`])
      await rejected(t, await post(replica, value), 400, /the body must be an object/)
    await rejected(
      t,
      await post(replica, whole.replace('"logs":', '"logs":1e999,"logs_":')),
      400,
      /^\/logs must be an array/,
    )
    const owner = `"__proto__":{"owner_id":${JSON.stringify(batch().owner_id)}}`
    await rejected(
      t,
      await post(replica, whole.replace(/"owner_id":"[^"]*"/, owner)),
      400,
      /^\/owner_id is required/,
    )
    await rejected(t, await post(replica, '['.repeat(1_000_000)), 400, /the body must be an object/)
    await rejected(t, await post(replica, nested), 400, /JSON: nesting deeper than 64 at offset 71/)
  })
})

t.test('a byte order mark is ignored', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  t.equal((await post(replica, `\uFEFF${JSON.stringify(batch())}`)).status, 202)
})

t.test('a body is not read on a route that does not take one', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const [method, path, status] of [
    ['POST', '/boundary', 404],
    ['PUT', '/boundary/logs', 405],
  ] as const)
    for (const type of ['application/json', 'text/plain', 'application/x-protobuf'])
      t.equal(await answerBeforeBody(replica.url, method, path, type), status, `${method} ${path} ${type}`)
})

/** The status of the response to a request whose body is never sent. */
async function answerBeforeBody(url: string, method: string, path: string, type: string): Promise<number> {
  const request = httpRequest(url + path, {
    method,
    headers: { 'content-type': type, 'content-length': 1_000 },
  })
  request.flushHeaders()
  request.on('error', () => {}) // the body is never sent
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  request.destroy()
  return response.statusCode ?? 0
}

t.test('keys that could pollute a prototype are ignored like other unknown fields', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const whole = JSON.stringify(batch({ logs: logs(2, 1) }))
  const poison = '"__proto__":{"x":1},"constructor":{"prototype":{"x":1}},'
  const body = whole.replaceAll('{"', `{${poison}"`)
  t.same(await json(post(replica, body)), { allowed: 2, denied: 1, skipped: 0 })
  t.notOk('x' in {}, 'no prototype was changed')
})

t.test('unsupported content types and encodings', async (t) => {
  const whole = JSON.stringify(batch())
  await countsNothing(t, async (replica) => {
    for (const type of [
      'text/plain',
      'application/xml',
      'application/x-www-form-urlencoded',
      'nonsense',
      'a/b/c',
    ])
      await rejected(t, await post(replica, whole, { 'content-type': type }), 415, /unsupported Content-Type/)
    for (const encoding of ['br', 'deflate', 'zstd', 'gzip, gzip', 'nonsense'])
      await rejected(
        t,
        await post(replica, whole, { 'content-encoding': encoding }),
        415,
        new RegExp(`unsupported Content-Encoding "${encoding}": use gzip or none`),
      )
    const untyped = head(whole.length, { connection: 'close' }).replace(/content-type:.*\r\n/, '')
    t.match(await exchange(replica.url, untyped + whole), /^HTTP\/1.1 415 /)
    t.match(
      await exchange(replica.url, head(0, { connection: 'close' }).replace(/content-type:.*\r\n/, '')),
      /^HTTP\/1.1 400 .*the body must be an object/s,
    )
  })
})

t.test('invalid gzip', async (t) => {
  const packed = gzipSync(JSON.stringify(batch({ logs: logs(100, 100) })))
  const gzip = { 'content-encoding': 'gzip' }
  const flipped = Buffer.from(packed)
  flipped[20] = (flipped[20] ?? 0) ^ 0xff
  await countsNothing(t, async (replica) => {
    for (const body of [packed.subarray(0, -10), flipped, Buffer.from('not gzip'), JSON.stringify(batch())])
      await rejected(t, await post(replica, body, gzip), 400, /the body is not valid gzip/)
    await rejected(t, await post(replica, gzipSync('{'), gzip), 400, /JSON/)
    await rejected(
      t,
      await post(replica, gzipSync(''), gzip),
      400,
      /the body is not valid JSON: found the end at offset 0/,
    )
  })
})

t.test('bodies over the limit: plain, chunked or after decompression', async (t) => {
  const BODY_LIMIT_BYTES = '65536'
  const padded = JSON.stringify(batch({ padding: ' '.repeat(65_536) }))
  await countsNothing(
    t,
    async (replica) => {
      await rejected(t, await post(replica, padded), 413, /too large/)
      const chunked = new ReadableStream({
        start(controller) {
          controller.enqueue(Buffer.from(padded.slice(0, 40_000)))
          controller.enqueue(Buffer.from(padded.slice(40_000)))
          controller.close()
        },
      })
      await rejected(t, await post(replica, chunked), 413, /too large/)
      await rejected(
        t,
        await post(replica, gzipSync(padded), { 'content-encoding': 'gzip' }),
        413,
        /too large/,
      )
    },
    { BODY_LIMIT_BYTES },
  )
})

t.test('a gzip bomb is rejected at the limit, not decompressed', async (t) => {
  const bomb = gzipOfSpaces(32)
  await countsNothing(t, async (replica) => {
    const before = process.memoryUsage.rss()
    for (let n = 0; n < 3; n++)
      await rejected(t, await post(replica, bomb, { 'content-encoding': 'gzip' }), 413, /too large/)
    const grown = (process.memoryUsage.rss() - before) / 1024 / 1024
    t.ok(grown < 128, `${bomb.length} bytes, packed from 512 MiB, took ${Math.round(grown)} MiB`)
  })
})

t.test('a client that never finishes its body is disconnected', async (t) => {
  await countsNothing(
    t,
    async (replica) => {
      const whole = JSON.stringify(batch())
      const answers = await Promise.all([
        exchange(replica.url, head(whole.length) + whole.slice(0, -1)),
        exchange(replica.url, head(whole.length, { 'content-encoding': 'gzip' }) + whole.slice(0, 1)),
        exchange(replica.url, 'POST /boundary/logs HTTP/1.1\r\nhost: localhost\r\n'),
        exchange(replica.url, 'POST'),
      ])
      for (const answer of answers) t.match(answer, /^(HTTP\/1.1 (408|400) |$)/)
    },
    { REQUEST_TIMEOUT_MS: '300' },
  )
})

t.test('a client that disconnects in the middle of its body', async (t) => {
  await countsNothing(t, async (replica) => {
    const whole = JSON.stringify(batch())
    for (const part of [0, 1, whole.length - 1])
      await exchange(replica.url, head(whole.length) + whole.slice(0, part), { hangUp: true })
  })
})

t.test('bytes that are not HTTP, and headers that are too large', async (t) => {
  await countsNothing(t, async (replica) => {
    const whole = JSON.stringify(batch())
    for (const bytes of [
      'nonsense\r\n\r\n',
      '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
      'POST /boundary/logs HTTP/9.9\r\n\r\n',
      `POST /boundary/logs HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n${whole}`,
      `POST /boundary/logs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n`,
      `POST /boundary/logs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n`,
      'POST /boundary/logs HTTP/1.1\r\nbad header\r\n\r\n',
    ])
      t.match(await exchange(replica.url, bytes), /^HTTP\/1.1 4\d\d /, JSON.stringify(bytes.slice(0, 60)))
    t.match(
      await exchange(replica.url, head(whole.length, { 'x-padding': 'x'.repeat(20_000) })),
      /^HTTP\/1.1 431 /,
    )
  })
})

t.test('paths that do not exist are 404', async (t) => {
  await countsNothing(t, async (replica) => {
    for (const [method, path] of [
      ['GET', '/boundary'],
      ['POST', '/boundary/logs/'],
      ['POST', '/boundary/%00'],
      ['GET', '/telemetry/../../etc/passwd'],
    ] as const) {
      const response = await fetch(replica.url + path, { method })
      await rejected(t, response, 404, /no such route/)
    }
    t.match(
      await exchange(
        replica.url,
        'GET /telemetry/snapshots/%E0%A4%A HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n',
      ),
      /^HTTP\/1.1 400 /,
    )
  })
})
