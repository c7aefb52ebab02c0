// NEW_IDS_LIMIT: no credential can spoil the distinct counts of a period by inventing ids.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { NewIds } from '../../src/counting/new-ids.js'
import { Tracker } from '../../src/counting/tracker.js'
import { testDatabase } from '../helpers/database.js'
import { hmac, jwt } from '../helpers/jwt.js'
import { json, type Replica, startReplica } from '../helpers/replica.js'

const ONE = 'agent-token-agent-token-1'
const OTHER = 'agent-token-agent-token-2'
const ADMIN = 'admin-token-admin-token-1'
const SECRET = 'a secret of more than thirty-two characters'
const bearer = (token: string) => ({ authorization: `Bearer ${token}` })

const take = (replica: Replica) => json(replica.post('/telemetry/snapshot', bearer(ADMIN)))
const overLimit = async (replica: Replica) =>
  [
    ...(await (await replica.get('/metrics')).text()).matchAll(/^boundary_usage_ids_over_limit_total.*$/gm),
  ].map(([line]) => line.replace('boundary_usage_ids_over_limit_total', ''))

t.test('beyond the limit requests count and new ids do not, until the next period', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, {
    AGENT_TOKENS: `${ONE},${OTHER}`,
    ADMIN_TOKENS: ADMIN,
    NEW_IDS_LIMIT: '3',
  })
  const known = { workspace_id: randomUUID(), owner_id: randomUUID() }
  const send = async (token: string, body: Record<string, unknown>) =>
    t.equal((await replica.send(body, bearer(token))).status, 202)

  await send(ONE, known)
  for (let n = 0; n < 9; n++) await send(ONE, { owner_id: known.owner_id })
  await send(ONE, known)
  t.strictSame(await overLimit(replica), ['{kind="workspace"} 7', '{kind="user"} 0'])
  await send(OTHER, {})
  t.hasStrict(await take(replica), { unique_workspaces: 4, unique_users: 2, allowed_requests: 12 })

  // A replica learns of the new period by its next flush.
  await send(ONE, known)
  await replica.app.counting.flush()
  for (let n = 0; n < 5; n++) await send(ONE, {})
  t.hasStrict(await take(replica), { unique_workspaces: 4, unique_users: 4, allowed_requests: 6 })
  t.strictSame(await overLimit(replica), ['{kind="workspace"} 9', '{kind="user"} 2'])
})

t.test('a log that is sent again counts once, although its workspace is beyond the limit', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, {
    AGENT_TOKENS: ONE,
    ADMIN_TOKENS: ADMIN,
    NEW_IDS_LIMIT: '1',
  })
  await replica.send({}, bearer(ONE))
  const http_request = { method: 'GET', url: 'https://example.com/' }
  const body = {
    workspace_id: randomUUID(),
    owner_id: randomUUID(),
    session_id: randomUUID(),
    logs: [{ allowed: true, sequence_number: 0, http_request }],
  }
  for (let n = 0; n < 2; n++) t.equal((await replica.send(body, bearer(ONE))).status, 202)
  t.hasStrict(await take(replica), { unique_workspaces: 1, unique_users: 1, allowed_requests: 2 })
})

t.test('the limit does not apply to JWTs, each of which has one workspace and owner', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, {
    AGENT_JWT_KEY: SECRET,
    AGENT_JWT_ALGORITHM: 'HS256',
    ADMIN_TOKENS: ADMIN,
    NEW_IDS_LIMIT: '1',
  })
  for (let n = 0; n < 3; n++) {
    const ids = { workspace_id: randomUUID(), owner_id: randomUUID() }
    t.equal((await replica.send(ids, bearer(jwt('HS256', hmac(SECRET), ids)))).status, 202)
  }
  t.hasStrict(await take(replica), { unique_workspaces: 3, unique_users: 3, allowed_requests: 3 })
})

t.test('each credential has its own limit per kind, reported once per period; 0 is none', async (t) => {
  let reports = 0
  const ids = new NewIds(2, () => reports++)
  const admit = (credential: string) => [ids.admit(credential, 'workspaces'), ids.admit(credential, 'users')]
  for (const expected of [true, true, false, false]) t.strictSame(admit('one'), [expected, expected])
  t.equal(reports, 1)
  t.strictSame(admit('other'), [true, true])
  ids.forget()
  for (const expected of [true, true, false]) t.strictSame(admit('one'), [expected, expected])
  t.equal(reports, 2)

  const unlimited = new NewIds(0, () => t.fail('reported'))
  for (let n = 0; n < 100; n++) t.ok(unlimited.admit('one', 'users'))
})

t.test('a tracker knows which ids are new, exactly or, beyond its limit, by their bits', async (t) => {
  const tracker = new Tracker(2)
  tracker.useHash(Number, () => '')
  const isNew = (...ids: string[]) =>
    ids.map((id) => {
      let isAsked = false
      tracker.track(id, '1', 1, 0, undefined, () => {
        isAsked = true
        return false
      })
      return isAsked
    })
  tracker.track('1', '1', 1, 0)
  tracker.track('2', '1', 1, 0)
  t.strictSame(isNew('1', '2', '3'), [false, false, true])
  tracker.track('3', '1', 1, 0)
  t.strictSame(isNew('1', '2', '3', '4'), [false, false, false, true])
  tracker.nextFlush()
  t.strictSame(isNew('1', '2', '3', '4'), [false, false, false, true], 'a flush keeps the period')
})
