// The limits of what a replica keeps of sessions, over HTTP.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { startProxy } from '../faults/proxy.js'
import { testDatabase } from '../helpers/database.js'
import { cases } from '../helpers/effort.js'
import { runsOf } from '../helpers/numbers.js'
import { allowedLog, json, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

t.test('250 runs of one session are flushed without waiting for the interval', async (t) => {
  const { url, sql } = await testDatabase(t)
  const replica = await startReplica(t, url, { FLUSH_INTERVAL_MS: '3600000' })
  const flushed = async () => (await sql`select from boundary_usage_stats`).length
  const ids = { workspace_id: randomUUID(), session_id: randomUUID() }
  const logs = Array.from({ length: 250 }, (_, n) => ({ ...allowedLog, sequence_number: 2 * n }))
  t.equal((await replica.send({ ...ids, logs: logs.slice(0, 249) })).status, 202)
  t.equal(await flushed(), 0)
  t.equal((await replica.send({ ...ids, logs: logs.slice(249) })).status, 202)
  await until(async () => (await flushed()) === 1, { what: 'a flush before its interval' })
  const { tracker } = replica.app.counting
  await until(() => tracker.unsettled === undefined, { what: 'the flush to be settled' })
  t.equal((await replica.send({ ...ids, logs: logs.slice(0, 1) })).status, 202)
  t.equal(tracker.sessionCost, 1 + 250 / 4, 'the next flush handles these runs too')
})

t.test(
  'beyond 100,000 runs batches of sessions are 503, others count, and both count after a flush',
  async (t) => {
    const { url } = await testDatabase(t)
    const proxy = await startProxy(t, Number(new URL(url).port))
    const replica = await startReplica(t, proxy.through(url), { FLUSH_INTERVAL_MS: '50' })
    const { counting } = replica.app
    proxy.setAway(true)
    const workspace = randomUUID()
    // The database takes longest for sessions of one run.
    const sessions = cases({ suite: 1_000, soak: 100_000 })
    const runs = 100_000 / sessions
    const numbers = runsOf({ allowed: Array.from({ length: runs }, (_, n) => [2 * n, 2 * n + 1]).flat() })
    const fill = () => {
      for (let n = 0; n < sessions; n++)
        void counting.count(undefined, workspace, workspace, runs, 0, { id: randomUUID(), numbers })
    }
    fill()
    await until(() => counting.tracker.unsettled !== undefined, { what: 'a frozen flush' })
    fill()
    const logs = [{ ...allowedLog, sequence_number: 0 }]
    const rejected = await replica.send({ session_id: randomUUID(), logs })
    t.equal(rejected.status, 503)
    t.ok(rejected.headers.get('retry-after'))
    t.hasStrict(await rejected.json(), { code: 'TOO_MANY_SESSIONS' })
    t.equal((await replica.send({ logs })).status, 202, 'without a session')

    proxy.setAway(false)
    await until(() => counting.tracker.unflushedAge === 0, { what: 'all usage to be flushed' })
    t.equal((await replica.send({ session_id: randomUUID(), logs })).status, 202)
    t.hasStrict(await json(replica.get('/telemetry/snapshot')), { allowed_requests: 200_002 })
  },
)

t.test('one token cannot keep the sessions of another token out', async (t) => {
  const { url } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const tokens = ['agent-token-agent-token-1', 'agent-token-agent-token-2'] as const
  const replica = await startReplica(t, proxy.through(url), {
    AGENT_TOKENS: tokens.join(),
    ADMIN_TOKENS: 'admin-token-admin-token-1',
  })
  proxy.setAway(true)
  const send = async (token: string) => {
    // Every other number is missing, so that each log is a run.
    const logs = Array.from({ length: 1_000 }, (_, n) => ({ ...allowedLog, sequence_number: 2 * n }))
    const response = await replica.send(
      { session_id: randomUUID(), logs },
      { authorization: `Bearer ${token}` },
    )
    await response.arrayBuffer()
    return response.status
  }
  let status = 202
  for (let n = 0; n < 200 && status === 202; n++) status = await send(tokens[0])
  t.equal(status, 503)
  t.equal(await send(tokens[1]), 202)
})
