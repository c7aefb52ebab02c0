// POST /boundary/logs in protobuf: counted as JSON is, whose it is said by headers or the JWT, refused as strictly.

import { createHmac, randomUUID } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { testDatabase } from '../helpers/database.js'
import { encode } from '../helpers/protobuf.js'
import { allowedLog, deniedLog, json, logs, type Replica, startReplica } from '../helpers/replica.js'

const SECRET = 'a secret of thirty-two characters or more'

async function start(t: Test, env: Record<string, string> = {}): Promise<Replica> {
  const { url } = await testDatabase(t)
  return startReplica(t, url, env)
}

const ids = () => ({ 'x-workspace-id': randomUUID(), 'x-owner-id': randomUUID() })

function post(replica: Replica, body: Buffer, headers: Record<string, string> = ids()): Promise<Response> {
  return fetch(`${replica.url}/boundary/logs`, {
    method: 'POST',
    headers: { 'content-type': 'application/x-protobuf', ...headers },
    body: new Uint8Array(body),
  })
}

function jwt(claims: Record<string, unknown>): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const data = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`
  return `${data}.${createHmac('sha256', SECRET).update(data).digest('base64url')}`
}

t.test('a batch counts as it does in JSON, for the ids in its headers, and once', async (t) => {
  const replica = await start(t)
  const whole = {
    session_id: randomUUID(),
    confined_process_name: 'agent',
    logs: [
      { ...allowedLog, time: '2026-01-31T12:30:00.123Z' },
      {
        sequence_number: 3,
        http_request: { method: 'GET', url: 'https://exämple.com/', matched_rule: 'any' },
      },
      { ...deniedLog, sequence_number: 2 ** 40 },
      { allowed: true, sequence_number: 1 },
    ],
  }
  const headers = ids()
  const upper = Object.fromEntries(Object.entries(headers).map(([name, id]) => [name, id.toUpperCase()]))
  t.strictSame(await json<unknown>(post(replica, encode(whole), headers)), {
    allowed: 1,
    denied: 2,
    skipped: 1,
  })
  t.strictSame(
    await json<unknown>(post(replica, gzipSync(encode(whole)), { ...upper, 'content-encoding': 'gzip' })),
    {
      allowed: 1,
      denied: 2,
      skipped: 1,
    },
  )
  t.hasStrict(await json(replica.get('/telemetry/snapshot')), {
    unique_workspaces: 1,
    unique_users: 1,
    allowed_requests: 1,
    denied_requests: 2,
    duplicate_requests: 3,
  })
})

t.test('a resource of a later version is skipped, and unknown fields change nothing', async (t) => {
  const replica = await start(t)
  const later = Buffer.from([0x0a, 0x06, 0x08, 0x01, 0xaa, 0x06, 0x01, 0x78]) // allowed, and field 101
  const field = Buffer.from([0xa2, 0x06, 0x01, 0x78, 0xa8, 0x06, 0x05]) // fields 100 and 101
  const batch = Buffer.concat([later, field, encode({ logs: [allowedLog] })])
  t.strictSame(await json<unknown>(post(replica, batch)), { allowed: 1, denied: 0, skipped: 1 })
})

t.test('an empty batch is accepted and tracks nobody', async (t) => {
  const replica = await start(t)
  t.strictSame(await json<unknown>(post(replica, encode({}))), { allowed: 0, denied: 0, skipped: 0 })
  t.strictSame(replica.app.counting.tracker.tracked, { workspaces: 0, users: 0 })
})

t.test('a JWT says whose the batch is; headers may repeat it and no more', async (t) => {
  const replica = await start(t, {
    AGENT_JWT_KEY: SECRET,
    AGENT_JWT_ALGORITHM: 'HS256',
    ADMIN_TOKENS: 'admin-token-admin-token-1',
  })
  const [workspace, owner] = [randomUUID(), randomUUID()]
  const authorization = `Bearer ${jwt({ workspace_id: workspace, owner_id: owner })}`
  const batch = encode({ logs: [allowedLog] })
  t.equal((await post(replica, batch, { authorization })).status, 202)
  const same = { 'x-workspace-id': workspace, 'x-owner-id': owner }
  t.equal((await post(replica, batch, { authorization, ...same })).status, 202)
  for (const [name, message] of [
    ['x-workspace-id', /header X-Workspace-Id is not the workspace of the JWT/],
    ['x-owner-id', /header X-Owner-Id is not the owner of the JWT/],
  ] as const) {
    const response = await post(replica, batch, { authorization, ...same, [name]: randomUUID() })
    t.equal(response.status, 403)
    t.match(await response.json(), { message })
  }
  t.strictSame(replica.app.counting.tracker.unflushed, { allowed: 2, denied: 0 })
})

t.test('what is refused says what to change and counts nothing', async (t) => {
  const replica = await start(t, { BODY_LIMIT_BYTES: '100000' })
  const batch = encode({ logs: [allowedLog, allowedLog] })
  const spoilt = Buffer.from(batch)
  spoilt[spoilt.length - 1] = 0xff
  const many = encode({ logs: logs(1_001, 0) as [] })
  const { 'x-workspace-id': workspace, 'x-owner-id': owner } = ids()
  const refusals: [Buffer, Record<string, string>, number, RegExp][] = [
    [batch, { 'x-owner-id': owner }, 400, /header X-Workspace-Id is required/],
    [batch, { 'x-workspace-id': workspace }, 400, /header X-Owner-Id is required/],
    [batch, { 'x-workspace-id': workspace, 'x-owner-id': 'me' }, 400, /header X-Owner-Id must be a UUID/],
    [spoilt, ids(), 400, /openapi\/boundary-logs.proto\): .* not UTF-8, before byte \d+, after 1 logs/],
    [Buffer.from('{"logs":[]}'), ids(), 400, /openapi\/boundary-logs.proto/],
    [many, ids(), 400, /\/logs must have at most 1000 items/],
    [encode({ session_id: 'x', logs: [allowedLog] }), ids(), 400, /\/session_id must be a UUID/],
    [Buffer.alloc(100_001), ids(), 413, /too large/],
    [batch, { ...ids(), 'content-encoding': 'br' }, 415, /use gzip or none/],
    [batch, { ...ids(), 'content-type': 'application/protobuf' }, 415, /unsupported Content-Type/],
    [batch, { ...ids(), 'content-type': 'application/json' }, 400, /JSON/],
  ]
  for (const [body, headers, status, message] of refusals) {
    const response = await post(replica, body, headers)
    t.equal(response.status, status, String(message))
    t.match(await response.json(), { statusCode: status, code: /^[A-Z_]+$/, message })
  }
  t.strictSame(replica.app.counting.tracker.unflushed, { allowed: 0, denied: 0 })
})

t.test('a batch cut anywhere but between two logs is refused and counts nothing', async (t) => {
  const replica = await start(t)
  const one = encode({ logs: [allowedLog] })
  const batch = Buffer.concat([one, one])
  const headers = ids()
  for (let length = 1; length < batch.length; length++) {
    if (length === one.length) continue
    const response = await post(replica, batch.subarray(0, length), headers)
    if (response.status !== 400) t.equal(response.status, 400, `cut after ${length} bytes`)
    await response.body?.cancel()
  }
  t.strictSame(replica.app.counting.tracker.unflushed, { allowed: 0, denied: 0 })
})
