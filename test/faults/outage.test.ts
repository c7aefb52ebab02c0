// A database that is unavailable, or accepts data and never responds: no work waits for ever, and no attempts pile up.

import { randomUUID } from 'node:crypto'
import { sql } from 'drizzle-orm'
import t from 'tap'
import { testDatabase } from '../helpers/database.js'
import { startProcess } from '../helpers/process.js'
import { allowedLog, json, logs, type Replica, type SnapshotJson, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'
import { startProxy } from './proxy.js'

t.jobs = 4

/** For replicas that must notice that the database does not answer. */
const impatient = { databaseDeadlineMs: 400 }

async function untilFlushed({ app }: Replica): Promise<void> {
  await until(() => app.counting.tracker.unflushedAge === 0, { what: 'all usage to be flushed' })
}

t.test(
  'while the database is unavailable, each attempt is one connection; then everything is flushed',
  async (t) => {
    const { url } = await testDatabase(t)
    const proxy = await startProxy(t, Number(new URL(url).port))
    const replica = await startReplica(t, proxy.through(url), { FLUSH_INTERVAL_MS: '200' })
    proxy.setAway(true)
    const { flushes } = replica.app.metrics
    const before = proxy.connections
    let sent = 0
    for (; flushes.failed < 5; sent++) t.equal((await replica.send()).status, 202)
    const tries = flushes.failed
    const connections = proxy.connections - before
    // Heartbeats are attempted too, at growing intervals.
    t.ok(connections <= 2 * tries + 2, `${tries} tries, ${connections} connections, ${sent} batches`)

    proxy.setAway(false)
    await untilFlushed(replica)
    t.hasStrict(await json(replica.get('/telemetry/snapshot')), { allowed_requests: sent })
  },
)

t.test(
  'after an outage in which agents sent everything to another replica, the flush is all duplicates',
  async (t) => {
    const { url } = await testDatabase(t)
    const proxy = await startProxy(t, Number(new URL(url).port))
    const away = await startReplica(t, proxy.through(url), { FLUSH_INTERVAL_MS: '200' })
    const other = await startReplica(t, url)
    proxy.setAway(true)
    const sessions = 200
    for (let n = 0; n < sessions; n++) {
      const numbered = Array.from({ length: 50 }, (_, number) => ({ ...allowedLog, sequence_number: number }))
      const batch = { workspace_id: randomUUID(), session_id: randomUUID(), logs: numbered }
      for (const replica of [away, other]) t.equal((await replica.send(batch)).status, 202)
    }
    await other.app.counting.flush()
    proxy.setAway(false)
    await untilFlushed(away)
    t.hasStrict(await json(away.get('/telemetry/snapshot')), {
      allowed_requests: 50 * sessions,
      duplicate_requests: 50 * sessions,
      unique_workspaces_summed: 2 * sessions,
    })
  },
)

t.test(
  'flushes and snapshots give up at their deadline, and all is there when it answers again',
  async (t) => {
    const { url } = await testDatabase(t)
    const proxy = await startProxy(t, Number(new URL(url).port))
    const replica = await startReplica(t, proxy.through(url), { FLUSH_INTERVAL_MS: '50' }, impatient)

    proxy.judge(() => 'swallow')
    await replica.send({ logs: logs(3, 2) })
    const refused = await replica.post('/telemetry/snapshot')
    t.equal(refused.status, 503)
    t.ok(refused.headers.get('retry-after'))
    t.equal((await replica.send({ logs: logs(1, 0) })).status, 202, 'counting never stopped')

    proxy.judge(() => 'pass')
    await until(async () => (await replica.post('/telemetry/snapshot')).ok, { what: 'a snapshot' })
    // A busy machine may take longer than the short deadline to open a connection.
    const { snapshots } = await until(
      async () => {
        const response = await replica.get('/telemetry/snapshots')
        return response.ok && ((await response.json()) as { snapshots: SnapshotJson[] })
      },
      { what: 'the snapshots' },
    )
    // A POST that was answered 503 may have committed: its response came after the deadline.
    const sum = (counts: number[]) => counts.reduce((a, b) => a + b, 0)
    t.equal(sum(snapshots.map(({ allowed_requests }) => allowed_requests)), 4)
    t.equal(sum(snapshots.map(({ denied_requests }) => denied_requests)), 2)
  },
)

t.test('a connection that falls silent in the middle of a flush blocks nothing', async (t) => {
  const { url } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const replica = await startReplica(t, proxy.through(url), { FLUSH_INTERVAL_MS: '50' }, impatient)
  // Committed, and the answer never comes: the worst place to fall silent.
  const silenced = new Promise<void>((resolve) => {
    let connection: number | undefined
    proxy.judge((message) => {
      if (message.from === 'client' && message.bytes.includes('with held')) connection ??= message.connection
      if (message.from !== 'server' || message.connection !== connection) return 'pass'
      resolve()
      return 'swallow'
    })
  })
  await replica.send({ logs: logs(3, 2) })
  await silenced
  await replica.send({ logs: logs(1, 0) })
  await untilFlushed(replica)
  // A busy machine may take longer than the short deadline to open a connection.
  const preview = await until(
    async () => {
      const response = await replica.get('/telemetry/snapshot')
      return response.ok && response.json()
    },
    { what: 'a preview' },
  )
  t.hasStrict(preview, { allowed_requests: 4, denied_requests: 2 })
})

t.test('a shutdown ends in time and says what may be lost', async (t) => {
  const { url } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const service = await startProcess(t, { DATABASE_URL: proxy.through(url), SHUTDOWN_TIMEOUT_MS: '1500' })
  await service.send({ logs: logs(3, 2) })
  proxy.judge(() => 'swallow')
  const asked = service.post('/telemetry/snapshot').catch(() => undefined) // has a flush under way when it ends
  await until(() => proxy.swallowed > 0, { what: 'a flush under way' })
  service.signal('SIGTERM')
  t.strictSame(await service.exited, { code: 1, signal: null })
  t.hasStrict(await service.log('the final flush failed'), { allowed_requests: 3, denied_requests: 2 })
  await asked
})

t.test('every transaction has its timeouts', async (t) => {
  const { database } = await testDatabase(t)
  const [row] = await database.run((db) =>
    db.execute(sql`select current_setting('statement_timeout') as statement,
      current_setting('lock_timeout') as lock,
      current_setting('idle_in_transaction_session_timeout') as idle`),
  )
  t.strictSame({ ...row }, { statement: '10s', lock: '5s', idle: '10s' })
})

t.test('a lock that is not to be had, and a statement that takes too long, say "not now"', async (t) => {
  const { database } = await testDatabase(t)
  await t.rejects(
    database.run((db) =>
      db.transaction(async (tx) => {
        await tx.execute(sql`set local statement_timeout = 1`)
        await tx.execute(sql`select pg_sleep(10)`)
      }),
    ),
    { name: 'DatabaseBusyError', isTooSlow: true },
  )
  await t.rejects(
    database.run((db) =>
      db.transaction(async (tx) => {
        await tx.execute(sql`set local lock_timeout = 1`)
        await tx.execute(sql`lock table boundary_usage_stats`)
        // On another connection, which the first one keeps waiting.
        await database.run((other) =>
          other.transaction(async (tx) => {
            await tx.execute(sql`set local lock_timeout = 1`)
            await tx.execute(sql`select * from boundary_usage_stats`)
          }),
        )
      }),
    ),
    { name: 'DatabaseBusyError', isTooSlow: false },
  )
  t.equal(database.up, true, 'which is not to have lost it')
})

t.test('a flush that the database cancels as too slow gets more time with each attempt', async (t) => {
  const { url, sql } = await testDatabase(t, { altered: true })
  await sql.unsafe(`
    create table timeouts (statement_timeout text);
    create function is_slow() returns trigger language plpgsql as $$ begin
      if current_setting('statement_timeout')::interval < interval '40 s' and new.allowed_requests < 10 then
        raise exception 'too slow' using errcode = 'query_canceled';
      end if;
      insert into timeouts values (current_setting('statement_timeout'));
      return new; end $$;
    create trigger slow after insert or update on boundary_usage_stats for each row execute function is_slow();`)
  const replica = await startReplica(t, url, { FLUSH_INTERVAL_MS: '200' })
  t.equal((await replica.send({ logs: logs(1, 0) })).status, 202)
  await untilFlushed(replica)
  t.equal(replica.app.metrics.flushes.failed, 2)
  t.equal((await replica.send({ logs: logs(10, 0) })).status, 202)
  await untilFlushed(replica)
  t.strictSame(
    (await sql`select statement_timeout from timeouts`).map((row) => row.statement_timeout),
    ['40s', '10s'],
  )
  t.hasStrict(await json(replica.get('/telemetry/snapshot')), { allowed_requests: 11 })
})

t.test('a snapshot that the database cancels as too slow gets more time with each attempt', async (t) => {
  const { url, sql } = await testDatabase(t, { altered: true })
  await sql.unsafe(`
    create function is_slow() returns trigger language plpgsql as $$ begin
      if current_setting('statement_timeout')::interval < interval '40 s' then
        raise exception 'too slow' using errcode = 'query_canceled';
      end if;
      return new; end $$;
    create trigger slow after insert on telemetry_snapshots for each row execute function is_slow();`)
  const replica = await startReplica(t, url)
  await replica.send({ logs: logs(3, 0) })
  const statuses = []
  for (let n = 0; n < 3; n++) statuses.push((await replica.post('/telemetry/snapshot')).status)
  t.strictSame(statuses, [503, 503, 200])
  const { snapshots } = await json<{ snapshots: SnapshotJson[] }>(replica.get('/telemetry/snapshots'))
  t.strictSame(
    snapshots.map(({ allowed_requests }) => allowed_requests),
    [3],
  )
})
