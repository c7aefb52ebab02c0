// Replicas that do not report, or cannot hear that they should.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { startProxy } from '../faults/proxy.js'
import { testDatabase } from '../helpers/database.js'
import { hasPgbouncer, startPgbouncer } from '../helpers/pgbouncer.js'
import { startProcess } from '../helpers/process.js'
import { json, logs, type SnapshotJson, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

type Late = SnapshotJson & { late_replicas: number | null; replicas: number; trigger: string }

/** Resolves when so many replicas have registered. */
async function untilRegistered(sql: import('postgres').Sql, replicas: number): Promise<void> {
  await until(
    async () =>
      (await sql`select from boundary_usage_replicas where seen_at is not null`).length === replicas,
    {
      what: `${replicas} heartbeats`,
    },
  )
}

t.test('all replicas flush for a snapshot and a preview, whoever is asked', async (t) => {
  const { url, sql } = await testDatabase(t)
  const replicas = await Promise.all(Array.from({ length: 3 }, () => startReplica(t, url)))
  const [first] = replicas
  if (!first) throw new Error('no replica')
  await untilRegistered(sql, 3)
  for (const replica of replicas) await replica.send({ logs: logs(2, 1) })
  t.hasStrict(await json<Late>(first.get('/telemetry/snapshot')), {
    replicas: 3,
    allowed_requests: 6,
    late_replicas: 0,
  })
  for (const replica of replicas) await replica.send({ logs: logs(1, 0) })
  t.hasStrict(await json<Late>(first.post('/telemetry/snapshot')), {
    replicas: 3,
    allowed_requests: 9,
    late_replicas: 0,
  })
  t.hasStrict(await json<Late>(first.post('/telemetry/snapshot')), { replicas: 0, allowed_requests: 0 })
})

t.test('a replica that starts when no snapshot is due holds back no flush', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, {
    SNAPSHOT_INTERVAL_MS: '86400000',
    SNAPSHOT_GRACE_MS: '30000',
  })
  const isNotDue = async () =>
    (await (await replica.get('/metrics')).text()).includes(
      'boundary_usage_snapshots_total{trigger="schedule",result="not_due"} 1',
    )
  await until(isNotDue, { what: 'the schedule to look' })
  await replica.send({ logs: logs(2, 1) })
  let isFlushed = false
  const flushed = replica.app.counting.flush().then(() => {
    isFlushed = true
  })
  await until(() => isFlushed, { what: 'the flush', limit: 15_000 })
  await flushed
  t.equal(replica.app.counting.tracker.unflushedAge, 0)
})

t.test(
  'a paused replica is late: the snapshot follows after the grace period, its logs in the next',
  async (t) => {
    const { url, sql } = await testDatabase(t)
    const env = { DATABASE_URL: url, SNAPSHOT_GRACE_MS: '700', SNAPSHOT_INTERVAL_MS: '0' }
    const paused = await startProcess(t, env)
    const other = await startProcess(t, env)
    await untilRegistered(sql, 2)
    await paused.send({ logs: logs(5, 0) })
    await other.send({ logs: logs(2, 0) })
    paused.signal('SIGSTOP')
    const start = performance.now()
    const taken = await json<Late>(other.post('/telemetry/snapshot'))
    t.ok(performance.now() - start >= 690)
    t.hasStrict(taken, { replicas: 1, allowed_requests: 2, late_replicas: 1 })
    const metrics = await (await other.get('/metrics')).text()
    t.match(metrics, /^boundary_usage_late_replicas 1$/m)
    paused.signal('SIGCONT')
    const next = await until(
      async () => {
        const snapshot = await json<Late>(other.post('/telemetry/snapshot'))
        return snapshot.late_replicas === 0 && snapshot
      },
      { what: 'the paused replica to report' },
    )
    const [{ allowed } = { allowed: 0 }] = await sql<{ allowed: number }[]>`
    select sum(allowed_requests)::int as allowed from telemetry_snapshots where period_end <= ${next.period_end}`
    t.equal(allowed, 7)
  },
)

t.test('the replica that goes first is paused: another one takes the scheduled snapshot', async (t) => {
  const { url, sql } = await testDatabase(t)
  const env = { DATABASE_URL: url, SNAPSHOT_GRACE_MS: '500', SNAPSHOT_INTERVAL_MS: '2000' }
  const oldest = await startProcess(t, env)
  await untilRegistered(sql, 1)
  const other = await startProcess(t, env)
  await untilRegistered(sql, 2)
  await oldest.send({ logs: logs(5, 0) })
  oldest.signal('SIGSTOP')
  await until(async () => (await sql`select from telemetry_snapshots where late_replicas = 1`).length > 0, {
    what: 'a snapshot without it',
  })
  oldest.signal('SIGCONT')
  await until(
    async () => {
      const { snapshots } = await json<{ snapshots: Late[] }>(other.get('/telemetry/snapshots'))
      return snapshots.reduce((sum, { allowed_requests }) => sum + allowed_requests, 0) === 5
    },
    { what: 'its logs to be counted' },
  )
})

t.test('a replica that has ended, or started since, is not waited for', async (t) => {
  const { url, sql } = await testDatabase(t)
  const first = await startReplica(t, url, { SNAPSHOT_GRACE_MS: '30000' })
  const ended = await startReplica(t, url)
  await untilRegistered(sql, 2)
  await ended.app.close()
  await sql`insert into boundary_usage_replicas (replica_id, name, version, started_at, last_flush_seq, seen_at)
    values (${randomUUID()}, 'new', '0', now() + interval '10 seconds', 0, now())`
  t.hasStrict(await json<Late>(first.post('/telemetry/snapshot')), { late_replicas: 0 })
})

t.test('a replica of the version before counts as late for an hour, and nobody waits for it', async (t) => {
  const { url, sql } = await testDatabase(t)
  const replica = await startReplica(t, url, { SNAPSHOT_GRACE_MS: '30000' })
  await untilRegistered(sql, 1)
  await sql`insert into boundary_usage_replicas (replica_id, name, version, started_at, last_flush_seq, last_flush_at)
    values (${randomUUID()}, 'before', '0', now() - interval '1 day', 3, now() - interval '59 minutes'),
      (${randomUUID()}, 'long before', '0', now() - interval '1 day', 3, now() - interval '61 minutes')`
  const start = performance.now()
  t.hasStrict(await json<Late>(replica.post('/telemetry/snapshot')), { late_replicas: 1 })
  t.ok(performance.now() - start < 15_000)
})

t.test('with SNAPSHOT_GRACE_MS=0 nobody waits, and the snapshot says so', async (t) => {
  const { url, sql } = await testDatabase(t)
  const env = { SNAPSHOT_GRACE_MS: '0' }
  const first = await startReplica(t, url, env)
  const silent = randomUUID()
  await sql`insert into boundary_usage_replicas (replica_id, name, version, started_at, last_flush_seq, seen_at)
    values (${silent}, 'silent', '0', now() - interval '1 day', 0, now())`
  t.hasStrict(await json<Late>(first.post('/telemetry/snapshot')), { late_replicas: 1 })
})

t.test(
  'through a pooler in transaction mode nobody hears a call: a manual snapshot does not wait, and says so',
  { skip: hasPgbouncer() ? false : 'pgbouncer is not installed' },
  async (t) => {
    const { url, sql } = await testDatabase(t)
    const pooled = await startPgbouncer(t, url, 'transaction')
    const env = { DATABASE_TRANSACTION_POOLING: 'true', SNAPSHOT_GRACE_MS: '30000' }
    const first = await startReplica(t, pooled, env)
    const second = await startReplica(t, pooled, env)
    await untilRegistered(sql, 2)
    await first.send({ logs: logs(1, 0) })
    await second.send({ logs: logs(2, 0) })
    t.hasStrict(await json<Late>(first.post('/telemetry/snapshot')), {
      allowed_requests: 1,
      late_replicas: 1,
    })
    t.hasStrict(await json<Late>(second.post('/telemetry/snapshot')), {
      allowed_requests: 2,
      late_replicas: 1,
    })
  },
)

t.test('a replica hears calls again after its connection was lost, and after it went silent', async (t) => {
  const { url, sql } = await testDatabase(t)
  const timing = { heartbeatMs: 100, databaseDeadlineMs: 500 }
  const proxy = await startProxy(t, Number(new URL(url).port))
  const first = await startReplica(t, url, { SNAPSHOT_GRACE_MS: '200' })
  const second = await startReplica(t, proxy.through(url), {}, timing)
  await untilRegistered(sql, 2)
  const untilHeard = (what: string) =>
    until(async () => (await json<Late>(first.post('/telemetry/snapshot'))).late_replicas === 0, { what })
  await untilHeard('the first report')
  await second.send({ logs: logs(1, 0) })
  proxy.cutAll()
  await untilHeard('a report after the connection was cut')

  const known = proxy.connections
  proxy.judge(({ connection }) => (connection < known ? 'swallow' : 'pass'))
  await until(() => proxy.swallowed > 0, { what: 'a message on a dead connection' })
  await untilHeard('a report after a connection went silent')
})

t.test(
  'a replica with nothing to flush accesses the database once per period, besides its heartbeats',
  async (t) => {
    const { url, sql } = await testDatabase(t)
    const env = { SNAPSHOT_INTERVAL_MS: '1000', FLUSH_INTERVAL_MS: '50' }
    const timing = { checkMs: 60_000 }
    const first = await startReplica(t, url, env, timing)
    await first.app.reporting.started
    const idle = await startReplica(t, url, env, timing)
    await idle.app.reporting.started
    const taken = async () =>
      (
        await sql`select from telemetry_snapshots where reported_by =
    ${first.app.counting.replica.replicaId}`
      ).length
    const before = await taken()
    await until(async () => (await taken()) > before, { what: 'a boundary' })
    const run = idle.app.database.run
    let accesses = 0
    idle.app.database.run = (...args) => {
      accesses++
      return run(...args)
    }
    const start = await taken()
    await until(async () => (await taken()) >= start + 3, { what: 'three periods' })
    t.ok(accesses >= 2 && accesses <= 4, `${accesses} in three periods`)
  },
)
