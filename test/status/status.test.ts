// GET /telemetry/status: it is ok only if all is well, and says what is not.

import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type postgres from 'postgres'
import t from 'tap'
import type { Status } from '../../src/status/schemas.js'
import { startProxy } from '../faults/proxy.js'
import { testDatabase } from '../helpers/database.js'
import { recordSnapshot } from '../helpers/history.js'
import { anchorsOf } from '../helpers/markdown.js'
import { json, logs, type Replica, startReplica } from '../helpers/replica.js'
import { startSink } from '../helpers/sink.js'
import { until } from '../helpers/until.js'

const NAMES = ['database', 'flushes', 'replicas', 'deliveries', 'missing_logs', 'late_replicas']
const MINUTE_MS = 60_000
const ago = (minutes: number) => new Date(Date.now() - minutes * MINUTE_MS).toISOString()

async function statusOf(replica: Replica, headers?: Record<string, string>): Promise<Status> {
  const response = await replica.get('/telemetry/status', headers)
  if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`)
  return json<Status>(Promise.resolve(response))
}

/** The names and messages of the checks that are not ok. */
async function faults(replica: Replica): Promise<Record<string, string>> {
  const { ok, checks } = await statusOf(replica)
  const failed = checks.filter((check) => !check.ok)
  if (ok !== (failed.length === 0)) throw new Error('ok contradicts the checks')
  return Object.fromEntries(failed.map(({ name, message }) => [name, message]))
}

/** Registers a replica whose last heartbeat was so many minutes ago. */
async function register(
  sql: postgres.Sql,
  name: string,
  { seen, started = 60, stopped }: { seen: number | null; started?: number; stopped?: number },
): Promise<void> {
  const row = {
    replica_id: randomUUID(),
    name,
    version: '0.2.0',
    started_at: ago(started),
    last_flush_seq: 0,
    seen_at: seen === null ? null : ago(seen),
    stopped_at: stopped === undefined ? null : ago(stopped),
  }
  await sql`insert into boundary_usage_replicas ${sql(row)}`
}

t.test('a new service is ok, and each check says why and leads to its runbook', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, { REPLICA_NAME: 'one' })
  await replica.send({ logs: logs(2, 1) })
  const { ok, checks } = await statusOf(replica)
  t.equal(ok, true)
  t.strictSame(
    checks.map(({ name }) => name),
    NAMES,
  )
  const manual = anchorsOf(await readFile(new URL('../../docs/operating.md', import.meta.url), 'utf8'))
  for (const { name, ok, message, runbook } of checks) {
    t.equal(ok, true, name)
    t.match(message, /^[A-Z\d].*[^.]\.$/, `${name} is a sentence`)
    const [page, anchor = ''] = runbook.split('#')
    t.equal(page, 'docs/operating.md')
    t.ok(manual.has(anchor), runbook)
  }
  const message = (name: string) => checks.find((check) => check.name === name)?.message
  t.match(message('database'), /^The database responded in \d+ ms\.$/)
  t.match(
    message('flushes'),
    /^This replica \(one\) has not flushed 3 requests, the oldest .* old; it flushes every 60 min\.$/,
  )
  t.equal(message('deliveries'), 'No sink is configured, so nothing is delivered.')
})

t.test('only an admin may read it', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, {
    AGENT_TOKENS: 'agent-token-agent-token-1',
    ADMIN_TOKENS: 'admin-token-admin-token-1',
  })
  const status = async (headers?: Record<string, string>) =>
    (await replica.get('/telemetry/status', headers)).status
  t.equal(await status(), 401)
  t.equal(await status({ authorization: 'Bearer agent-token-agent-token-1' }), 403)
  t.equal(await status({ authorization: 'Bearer admin-token-admin-token-1' }), 200)
})

t.test('while the database is unavailable it answers, and what it cannot check is not ok', async (t) => {
  const { url } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const replica = await startReplica(t, proxy.through(url), { FLUSH_INTERVAL_MS: '10' })
  t.strictSame(await faults(replica), {})
  proxy.setAway(true)
  const { database, ...unknown } = await faults(replica)
  t.match(database, /^The database is unavailable: .*\.$/)
  t.strictSame(unknown, {
    replicas: 'Unknown while the database is unavailable.',
    missing_logs: 'Unknown while the database is unavailable.',
    late_replicas: 'Unknown while the database is unavailable.',
  })
  await replica.send({ logs: logs(4, 1) })
  const { replicas } = await until(
    async () => {
      const found = await faults(replica)
      return /not ready/.test(found.replicas ?? '') && found
    },
    { what: 'a replica that is not ready' },
  )
  t.equal(
    replicas,
    'This replica (test) is not ready: usage has been waiting for the database for over 10 flush intervals.',
  )
  proxy.setAway(false)
  await until(async () => Object.keys(await faults(replica)).length === 0, { what: 'the recovery' })
})

t.test(
  'usage that is not flushed for five intervals, and at least ten seconds, needs attention',
  async (t) => {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url, { FLUSH_INTERVAL_MS: '3000', REPLICA_NAME: 'one' })
    const { tracker } = replica.app.counting
    let ageMs = 0
    Object.defineProperty(tracker, 'unflushedAge', { get: () => ageMs })
    Object.defineProperty(tracker, 'unflushed', { get: () => ({ allowed: 1_200, denied: 34 }) })
    ageMs = 15_000
    t.strictSame(await faults(replica), {})
    ageMs = 15_001
    t.strictSame(await faults(replica), {
      flushes:
        'This replica (one) has not flushed 1,234 requests, the oldest 15 s old; it flushes every 3 s.',
    })
  },
)

t.test(
  'a replica without a heartbeat is silent for a day, unless one of its name has followed it',
  async (t) => {
    const { url, sql } = await testDatabase(t)
    const replica = await startReplica(t, url, { REPLICA_NAME: 'one' })
    await register(sql, 'live', { seen: 0.5 })
    await register(sql, 'stopped', { seen: 5, stopped: 5 })
    await register(sql, 'older version', { seen: null })
    await register(sql, 'long gone', { seen: 24 * 60 + 1, started: 24 * 60 + 2 })
    await register(sql, 'restarted', { seen: 10 })
    await register(sql, 'restarted', { seen: 0.1, started: 9 })
    t.strictSame(await faults(replica), {})

    await register(sql, 'twin', { seen: 3 })
    await register(sql, 'twin', { seen: 0.1 })
    for (const [n, minutes] of [7, 8, 9].entries()) await register(sql, `killed-${n}`, { seen: minutes })
    t.match(
      (await faults(replica)).replicas,
      /^4 replicas are silent \(twin, killed-0, killed-1, …\), the last heartbeat 3 min ago; \d replicas are live\.$/,
    )
  },
)

t.test('deliveries need attention when they are overdue or dead', async (t) => {
  const { url, sql } = await testDatabase(t)
  const sink = await startSink(t)
  for (const minutes of [3, 20, 40 * 24 * 60]) await recordSnapshot(sql, ago(minutes), ['a'])
  const withoutSink = await startReplica(t, url)
  const replica = await startReplica(t, url, sink.env)
  const deliveryOf = (minutes: number, fields: Record<string, unknown>) =>
    sql`update telemetry_snapshots set ${sql(fields)} where period_end between ${ago(minutes + 1)} and ${ago(minutes - 1)}`
  const inAnHour = ago(-60)

  await deliveryOf(3, { delivery_state: 'pending', delivery_error: 'status 500', delivery_due_at: inAnHour })
  await deliveryOf(20, { delivery_state: 'pending', delivery_due_at: inAnHour })
  await deliveryOf(40 * 24 * 60, { delivery_state: 'dead', delivery_error: 'status 410' })
  t.strictSame(await faults(replica), {}, 'a recent failure, a redelivery, and an old story')
  await deliveryOf(20, { delivery_error: 'status 503' })
  t.strictSame(await faults(replica), {
    deliveries: '1 delivery is overdue by over 15 min (status 503), of 2 pending.',
  })
  await deliveryOf(3, { delivery_state: 'dead' })
  t.strictSame(await faults(replica), {
    deliveries: '1 delivery of the last 30 days is dead (status 500), and 1 is pending.',
  })
  t.strictSame(await faults(withoutSink), {}, 'without a sink nothing is due')
})

t.test('missing logs need attention above one percent, late replicas at once, for an hour', async (t) => {
  const { url, sql } = await testDatabase(t)
  const replica = await startReplica(t, url)
  await recordSnapshot(sql, ago(200), ['a'])
  await sql`update telemetry_snapshots set missing_requests = 5, late_replicas = 2`
  const expected = {
    missing_logs: '5 logs were reported missing and 0 recovered in the last 3 h, with 11 requests counted.',
    late_replicas:
      '2 replicas were late at a snapshot of the last 3 h: what they held counts in the next period.',
  }
  t.strictSame(await faults(replica), expected, 'the last snapshot, however old')
  await recordSnapshot(sql, ago(40), ['a'])
  t.strictSame(await faults(replica), {}, 'no version has checked for late replicas')
  await recordSnapshot(sql, ago(10), ['a'])
  const set = (fields: Record<string, number>) =>
    sql`update telemetry_snapshots set ${sql(fields)} where period_end > ${ago(15)}`
  await set({ allowed_requests: 989, denied_requests: 0, missing_requests: 10, late_replicas: 0 })
  t.strictSame(await faults(replica), {})
  await set({ missing_requests: 11, recovered_requests: 1, late_replicas: 1 })
  t.strictSame(await faults(replica), {
    missing_logs:
      '11 logs were reported missing and 1 recovered in the last 70 min, with 1,000 requests counted.',
    late_replicas:
      '1 replica was late at a snapshot of the last 70 min: what they held counts in the next period.',
  })
})
