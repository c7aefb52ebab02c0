// Authentication and authorization: tokens of two roles, agents' JWTs, and what each does not authorize.

import { generateKeyPairSync, type KeyObject, randomUUID, sign } from 'node:crypto'
import t, { type Test } from 'tap'
import { testDatabase } from '../helpers/database.js'
import { hmac, jwt, type Signer } from '../helpers/jwt.js'
import { exchange } from '../helpers/raw.js'
import { batch, json, type Replica, startReplica } from '../helpers/replica.js'

const AGENT = 'agent-token-agent-token-1'
const AGENT_2 = 'agent-token-agent-token-2'
const ADMIN = 'admin-token-admin-token-1'
const ADMIN_2 = 'admin-token-admin-token-2'
const METRICS = 'metrics-token-metrics-token'
const tokens = { AGENT_TOKENS: `${AGENT}, ${AGENT_2}`, ADMIN_TOKENS: `${ADMIN},${ADMIN_2}` }

const bearer = (token: string) => ({ authorization: `Bearer ${token}` })

async function rejected(t: Test, response: Response, status: number, message: RegExp): Promise<void> {
  t.equal(response.status, status, String(message))
  t.match(await response.json(), { statusCode: status, code: /^[A-Z_]+$/, message })
  t.equal(response.headers.get('www-authenticate'), status === 401 ? 'Bearer' : null)
}

async function start(t: Test, env: Record<string, string>): Promise<Replica> {
  const { url } = await testDatabase(t)
  return startReplica(t, url, env)
}

const adminRoutes: ((replica: Replica, headers: Record<string, string>) => Promise<Response>)[] = [
  (replica, headers) => replica.get('/telemetry/snapshot', headers),
  (replica, headers) => replica.post('/telemetry/snapshot', headers),
  (replica, headers) => replica.get('/telemetry/snapshots', headers),
  (replica, headers) => replica.get('/telemetry/replicas', headers),
]

t.test('without tokens, the service is open', async (t) => {
  const replica = await start(t, {})
  t.equal((await replica.send()).status, 202)
  for (const send of adminRoutes) t.equal((await send(replica, {})).status, 200)
})

t.test('without tokens, requests from pages of other sites are rejected', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const [site, status] of [
    ['cross-site', 403],
    ['same-site', 403],
    ['same-origin', 200],
    ['none', 200],
  ] as const) {
    // fetch() does not let a program set this header.
    const answer = await exchange(
      replica.url,
      `POST /telemetry/snapshot HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nsec-fetch-site: ${site}\r\ncontent-length: 0\r\n\r\n`,
    )
    t.match(answer, new RegExp(`^HTTP/1.1 ${status} `), site)
  }
})

t.test('every token of a role authorizes that role and no other', async (t) => {
  const replica = await start(t, tokens)
  for (const token of [AGENT, AGENT_2]) {
    t.equal((await replica.send({}, bearer(token))).status, 202)
    for (const send of adminRoutes)
      await rejected(t, await send(replica, bearer(token)), 403, /^admin token required$/)
  }
  for (const token of [ADMIN, ADMIN_2]) {
    for (const send of adminRoutes) t.equal((await send(replica, bearer(token))).status, 200)
    await rejected(t, await replica.send({}, bearer(token)), 403, /^agent token required$/)
  }
  t.equal(
    (await replica.send({}, { authorization: `bearer  ${AGENT} ` })).status,
    202,
    'the scheme is case-insensitive',
  )
})

t.test('a missing or unknown token is 401 and counts nothing', async (t) => {
  const replica = await start(t, tokens)
  for (const headers of [
    {},
    { authorization: AGENT },
    { authorization: `Basic ${AGENT}` },
    { authorization: 'Bearer ' },
    bearer(`${AGENT}x`),
    bearer(AGENT.slice(0, -1)),
    bearer(`${AGENT}, ${AGENT_2}`),
    bearer('a.b.c'),
  ]) {
    await rejected(t, await replica.send({}, headers), 401, /Authorization: Bearer/)
    for (const send of adminRoutes)
      await rejected(t, await send(replica, headers), 401, /Authorization: Bearer/)
  }
  t.strictSame(replica.app.counting.tracker.unflushed, { allowed: 0, denied: 0 })
})

t.test('/metrics requires its own token if one is set; the probes are open', async (t) => {
  const replica = await start(t, { ...tokens, METRICS_TOKEN: METRICS })
  for (const token of ['', AGENT, ADMIN])
    await rejected(t, await replica.get('/metrics', bearer(token)), 401, /Authorization: Bearer/)
  t.equal((await replica.get('/metrics', bearer(METRICS))).status, 200)
  for (const path of ['/-/healthy', '/-/ready', '/openapi.json'])
    t.equal((await replica.get(path)).status, 200, path)
})

interface Scheme {
  algorithm: string
  key: string
  signer: Signer
}

const pem = (key: KeyObject) => key.export({ type: 'spki', format: 'pem' }).toString()
const secret = 'a secret of more than thirty-two characters'
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const ed = generateKeyPairSync('ed25519')

const schemes: Scheme[] = [
  { algorithm: 'HS256', key: secret, signer: hmac(secret) },
  {
    algorithm: 'RS256',
    key: pem(rsa.publicKey),
    signer: (data) => sign('sha256', Buffer.from(data), rsa.privateKey),
  },
  {
    algorithm: 'ES256',
    key: pem(ec.publicKey),
    signer: (data) => sign('sha256', Buffer.from(data), { key: ec.privateKey, dsaEncoding: 'ieee-p1363' }),
  },
  {
    algorithm: 'EdDSA',
    key: pem(ed.publicKey),
    signer: (data) => sign(null, Buffer.from(data), ed.privateKey),
  },
]

const now = () => Math.floor(Date.now() / 1000)

for (const { algorithm, key, signer } of schemes)
  t.test(`${algorithm}: a JWT determines the workspace and owner of a batch`, async (t) => {
    // The key on one line, as in an env file.
    const env = {
      AGENT_JWT_KEY: key.trim().replaceAll('\n', '\\n'),
      AGENT_JWT_ALGORITHM: algorithm,
      ADMIN_TOKENS: ADMIN,
    }
    const replica = await start(t, env)
    const ids = { workspace_id: randomUUID(), owner_id: randomUUID() }
    const claims = { ...ids, exp: now() + 600 }
    const headers = bearer(jwt(algorithm, signer, claims))

    for (const body of [
      { workspace_id: undefined, owner_id: undefined },
      ids,
      { workspace_id: ids.workspace_id.toUpperCase(), owner_id: undefined },
    ])
      t.equal((await replica.send(body, headers)).status, 202)
    t.hasStrict(await json(replica.get('/telemetry/snapshot', bearer(ADMIN))), {
      unique_workspaces: 1,
      unique_users: 1,
      allowed_requests: 3,
    })
    const { unflushed } = replica.app.counting.tracker
    await rejected(
      t,
      await replica.send({ ...ids, workspace_id: randomUUID() }, headers),
      403,
      /^\/workspace_id is not the workspace of the JWT/,
    )
    await rejected(
      t,
      await replica.send({ ...ids, owner_id: randomUUID() }, headers),
      403,
      /^\/owner_id is not the owner of the JWT/,
    )
    for (const send of adminRoutes)
      await rejected(t, await send(replica, headers), 403, /^admin token required: /)

    for (const [claimed, status, message] of [
      [{ ...claims, exp: now() - 1 }, 401, /expired/],
      [{ ...claims, nbf: now() + 600 }, 401, /active|before/],
      [{ owner_id: ids.owner_id }, 403, /claims workspace_id and owner_id/],
      [{ ...ids, owner_id: 17 }, 403, /claims workspace_id and owner_id/],
      [{ ...ids, workspace_id: 'mine' }, 403, /claims workspace_id and owner_id/],
    ] as const)
      await rejected(t, await replica.send({}, bearer(jwt(algorithm, signer, claimed))), status, message)

    const other = algorithm === 'HS256' ? 'RS256' : 'HS256'
    for (const forged of [
      jwt(algorithm, (data) => signer(`${data}x`), claims),
      jwt('none', () => Buffer.alloc(0), claims),
      jwt(other, hmac(key), claims), // the public key used as a secret
      jwt(algorithm, hmac('another secret of thirty-two characters'), claims),
      'a.b.c',
    ])
      await rejected(t, await replica.send({}, bearer(forged)), 401, /Authorization: Bearer/)
    t.strictSame(replica.app.counting.tracker.unflushed, unflushed, 'nothing was counted')
  })

t.test('agents can use tokens and JWTs side by side', async (t) => {
  const replica = await start(t, { ...tokens, AGENT_JWT_KEY: secret, AGENT_JWT_ALGORITHM: 'HS256' })
  const claims = { workspace_id: randomUUID(), owner_id: randomUUID() }
  t.equal((await replica.send({}, bearer(AGENT))).status, 202)
  t.equal(
    (
      await replica.send(
        { workspace_id: undefined, owner_id: undefined },
        bearer(jwt('HS256', hmac(secret), claims)),
      )
    ).status,
    202,
  )
  await rejected(
    t,
    await replica.send({ workspace_id: undefined }, bearer(AGENT)),
    400,
    /^\/workspace_id is required$/,
  )
})

t.test('credentials are checked before the body is read', async (t) => {
  const replica = await start(t, tokens)
  const response = await fetch(`${replica.url}/boundary/logs`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(batch()).slice(1),
  })
  await rejected(t, response, 401, /no bearer token/)
})
