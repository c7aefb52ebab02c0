// The rate limit: batches per credential.

import { randomUUID } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { limitRate } from '../../src/http/rate-limit.js'
import { testDatabase } from '../helpers/database.js'
import { hmac, jwt } from '../helpers/jwt.js'
import { startReplica } from '../helpers/replica.js'

t.test(
  'batches over the limit are 429 with Retry-After, for that credential only, and count nothing',
  async (t) => {
    const { url } = await testDatabase(t)
    const one = 'agent-token-agent-token-1'
    const other = 'agent-token-agent-token-2'
    const replica = await startReplica(t, url, {
      AGENT_TOKENS: `${one},${other}`,
      ADMIN_TOKENS: 'admin-token-admin-token-1',
      RATE_LIMIT_PER_MINUTE: '3',
    })
    const send = (token: string) => replica.send({}, { authorization: `Bearer ${token}` })
    for (let n = 0; n < 3; n++) t.equal((await send(one)).status, 202)
    for (let n = 0; n < 3; n++) {
      const response = await send(one)
      t.equal(response.status, 429)
      const wait = Number(response.headers.get('retry-after'))
      t.ok(wait >= 1 && wait <= 60, `Retry-After ${wait}`)
      t.match(await response.json(), {
        statusCode: 429,
        code: 'RATE_LIMITED',
        message: /^rate limit of 3 batches per minute exceeded: retry in \d+ seconds$/,
      })
    }
    t.equal((await send(other)).status, 202)
    t.strictSame(replica.app.counting.tracker.unflushed, { allowed: 4, denied: 0 })
    t.match(await (await replica.get('/metrics')).text(), /batches_total{result="rate_limited"} 3\n/)
  },
)

t.test('rejected credentials do not use up the limit of a known one', async (t) => {
  const { url } = await testDatabase(t)
  const token = 'agent-token-agent-token-1'
  const replica = await startReplica(t, url, {
    AGENT_TOKENS: token,
    ADMIN_TOKENS: 'admin-token-admin-token-1',
    RATE_LIMIT_PER_MINUTE: '1',
  })
  for (let n = 0; n < 5; n++) t.equal((await replica.send()).status, 401)
  t.equal((await replica.send({}, { authorization: `Bearer ${token}` })).status, 202)
})

t.test(
  'behind a proxy, a client has the address that the proxy has added, whatever it states itself',
  async (t) => {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url, { TRUST_PROXY: 'true', RATE_LIMIT_PER_MINUTE: '1' })
    const send = (addresses: string) => replica.send({}, { 'x-forwarded-for': addresses })
    t.equal((await send('203.0.113.9')).status, 202)
    t.equal((await send('10.0.0.1, 203.0.113.9')).status, 429)
    t.equal((await send('10.0.0.2, 10.0.0.3, 203.0.113.9')).status, 429)
    t.equal((await send('203.0.113.9, 198.51.100.7')).status, 202)
  },
)

t.test('an agent has one limit, whichever of its JWTs it sends and however it is spelled', async (t) => {
  const { url } = await testDatabase(t)
  const secret = 'a secret of more than thirty-two characters'
  const replica = await startReplica(t, url, {
    AGENT_JWT_KEY: secret,
    AGENT_JWT_ALGORITHM: 'HS256',
    ADMIN_TOKENS: 'admin-token-admin-token-1',
    RATE_LIMIT_PER_MINUTE: '2',
  })
  const issue = (claims: Record<string, unknown>) => jwt('HS256', hmac(secret), claims)
  const send = async (token: string) =>
    (
      await replica.send(
        { workspace_id: undefined, owner_id: undefined },
        { authorization: `Bearer ${token}` },
      )
    ).status
  const ids = { workspace_id: randomUUID(), owner_id: randomUUID() }
  const token = issue(ids)

  t.equal(await send(token), 202)
  t.equal(await send(issue({ ...ids, jti: 'reissued' })), 202)
  for (const other of [
    token,
    respelled(token),
    issue({ ...ids, jti: 'once more' }),
    issue({ ...ids, workspace_id: ids.workspace_id.toUpperCase() }),
  ])
    t.equal(await send(other), 429)
  t.equal(
    await send(issue({ ...ids, owner_id: randomUUID() })),
    202,
    'another owner has a limit of their own',
  )
  t.strictSame(replica.app.counting.tracker.unflushed, { allowed: 3, denied: 0 })
})

const BASE64URL = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

/** The same JWT in other letters: the last one of 32 bytes in base64url has two bits that decoders ignore. */
function respelled(token: string): string {
  const last = BASE64URL[BASE64URL.indexOf(token.slice(-1)) ^ 1]
  return `${token.slice(0, -1)}${last}`
}

t.test(
  'a window lasts one minute from its first batch, and the oldest windows are dropped first',
  async (t) => {
    let now = 0
    const hook = limitRate(1)
    /** The Retry-After of a batch, or 0 if it is accepted. */
    const send = (credential: string) => {
      let wait = 0
      const reply = {
        header: (_name: string, seconds: number) => {
          wait = seconds
        },
      }
      let rejection: Error | undefined
      const request = { credential, arrivedAt: now } as FastifyRequest
      hook.call({} as never, request, reply as unknown as FastifyReply, (error) => {
        rejection = error
      })
      if ((rejection !== undefined) !== wait > 0)
        throw new Error('Retry-After without an error, or the reverse')
      return wait
    }
    t.equal(send('one'), 0)
    now = 20_500
    t.equal(send('one'), 40)
    now = 59_999
    t.equal(send('one'), 1)
    now = 60_000
    t.equal(send('one'), 0)
    t.equal(send('one'), 60)
    for (let n = 0; n < 10_000; n++) if (send(`other-${n}`) !== 0) t.fail('rejected')
    t.equal(send('one'), 0, 'dropped')
    t.equal(send('other-9999'), 60, 'not dropped')
  },
)
