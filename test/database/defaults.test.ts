// No default set for a role or a database changes a figure, a time or the key.

import { randomUUID } from 'node:crypto'
import { sql as drizzleSql } from 'drizzle-orm'
import type postgres from 'postgres'
import t, { type Test } from 'tap'
import { applyFlush } from '../../src/counting/flush.js'
import { beat } from '../../src/counting/replica.js'
import type { Tracker } from '../../src/counting/tracker.js'
import { connectDatabase, type Database } from '../../src/database/client.js'
import { readSketchKey } from '../../src/database/settings.js'
import { claimDelivery, recordDelivery } from '../../src/delivery/queue.js'
import { DAY_MS } from '../../src/snapshots/calendar.js'
import { findSnapshot, listReplicas, listSnapshots } from '../../src/snapshots/history.js'
import { previewSnapshot, takeSnapshot } from '../../src/snapshots/snapshot.js'
import { readUsage } from '../../src/snapshots/usage.js'
import { testDatabase, withSettings } from '../helpers/database.js'
import { startPostgres } from '../helpers/postgres.js'
import { startProcess } from '../helpers/process.js'
import { logs, startReplica } from '../helpers/replica.js'
import { newTracker } from '../helpers/tracker.js'
import { until } from '../helpers/until.js'

t.jobs = 2

interface Setting {
  name: string
  vartype: 'bool' | 'enum' | 'integer' | 'real' | 'string'
  reset_val: string
  enumvals: string[] | null
  min_val: string | null
  max_val: string | null
}

/** Values of the settings that take any text. */
const TEXTS: Record<string, string[]> = {
  DateStyle: ['German', 'SQL, DMY', 'Postgres, DMY', 'ISO, YMD'],
  TimeZone: ['America/St_Johns', 'Europe/Amsterdam', 'Asia/Kathmandu'],
  client_encoding: ['LATIN1'],
}
/** They end statements, transactions or sessions; the timeouts that a transaction sets are tested elsewhere. */
const ENDS = /_timeout$|^transaction_|^default_transaction_read_only$|^exit_on_error$/

/**
 * Sets of defaults that a role or a database may have: together they hold every value of every setting that is not
 * the server's own.
 */
async function defaults(sql: postgres.Sql): Promise<Record<string, string>[]> {
  const settings = await sql<Setting[]>`select name, vartype, reset_val, enumvals, min_val, max_val
    from pg_settings where context = 'user' order by name`
  const sets: Record<string, string>[] = []
  for (const setting of settings.filter(({ name }) => !ENDS.test(name)))
    for (const [n, value] of valuesOf(setting).entries()) sets[n] = { ...sets[n], [setting.name]: value }
  return sets
}

function valuesOf({ name, vartype, reset_val, enumvals, min_val, max_val }: Setting): string[] {
  if (vartype === 'bool') return [reset_val === 'on' ? 'off' : 'on']
  if (vartype === 'enum') return (enumvals ?? []).filter((value) => value !== reset_val)
  if (vartype === 'string') return TEXTS[name] ?? []
  return [min_val, max_val].filter((value) => value !== null && value !== reset_val).map(String)
}

const KEY = Buffer.from(Array.from({ length: 32 }, (_, byte) => (byte * 37 + 92) % 256))

/** Flushes, takes, reads and delivers a period, and compares all figures, times and the key. */
async function checkPeriod(t: Test, database: Database, sql: postgres.Sql): Promise<void> {
  const replica = { replicaId: randomUUID(), name: 'Réplica', version: '0.0.0' }
  const tracker = newTracker()
  await database.run((db) => beat(db, replica))
  const outcomes = [await flushNext(database, tracker, replica, 1)]
  outcomes.push(await flushNext(database, tracker, replica, 2))
  outcomes.push(await flushNext(database, tracker, replica, 2))
  t.strictSame(outcomes, [
    { result: 'applied', newPeriod: true, duplicates: 0, storedRuns: {} },
    { result: 'applied', newPeriod: false, duplicates: 0, storedRuns: {} },
    { result: 'applied', newPeriod: false, duplicates: 0, storedRuns: {} },
  ])

  const counts = {
    trigger: 'manual',
    reported_by: replica.replicaId,
    replicas: 1,
    unique_workspaces: 2,
    unique_users: 2,
    unique_workspaces_summed: 2,
    unique_users_summed: 2,
    allowed_requests: 9,
    denied_requests: 3,
    duplicate_requests: 0,
    missing_requests: 0,
    recovered_requests: 0,
    late_replicas: 0,
  }
  await database.run((db) => beat(db, replica, Date.now() + 60_000))
  const preview = await database.run((db) => previewSnapshot(db, { reportedBy: replica.replicaId }))
  t.hasStrict(preview, counts)
  const taken = await database.run((db) =>
    takeSnapshot(db, { trigger: 'manual', reportedBy: replica.replicaId, deliver: true }),
  )
  if (taken.result !== 'taken') throw new Error(`the snapshot is ${taken.result}`)

  const ms = (column: string) => sql`(extract(epoch from ${sql(column)}) * 1000)::float8`
  const [stored] = await sql<
    { start: number; end: number; at: number; started: number; flushed: number; seen: number }[]
  >`
    select ${ms('period_start')} as start, ${ms('period_end')} as end, ${ms('taken_at')} as at,
      ${ms('started_at')} as started, ${ms('last_flush_at')} as flushed, ${ms('seen_at')} as seen
    from telemetry_snapshots, boundary_usage_replicas
    where id = ${String(taken.snapshot.id)} and replica_id = ${replica.replicaId}`
  if (!stored) throw new Error('the snapshot is not recorded')
  const snapshot = {
    ...counts,
    id: taken.snapshot.id,
    period_start: new Date(stored.start),
    period_end: new Date(stored.end),
    period_duration_ms: stored.end - stored.start,
    taken_at: new Date(stored.at),
  }
  t.strictSame(taken.snapshot, snapshot)
  t.strictSame(preview.period_start, snapshot.period_start)
  t.ok(Math.abs(Date.now() - stored.end) < 60_000, 'the times are of today')

  const claim = await database.run(claimDelivery)
  t.strictSame([claim?.snapshot, claim?.attempt], [snapshot, 1])
  if (!claim) throw new Error('nothing to deliver')
  await database.run((db) => recordDelivery(db, claim, { result: 'delivered' }))
  const recorded = await database.run((db) => findSnapshot(db, String(snapshot.id)))
  t.hasStrict(recorded, { ...snapshot, delivery: { state: 'delivered', attempts: 1, due_at: null } })
  const { snapshots } = await database.run((db) => listSnapshots(db, 1))
  t.strictSame(snapshots, [recorded])

  const [from, to] = [snapshot.period_start, snapshot.period_end]
  const usage = await database.run((db) => readUsage(db, { from, to, by: 'month' }))
  t.strictSame(usage.total, {
    snapshots: 1,
    unique_workspaces: 2,
    unique_users: 2,
    new_workspaces: 2,
    new_users: 2,
    new_workspaces_error: 0,
    new_users_error: 0,
    allowed_requests: 9,
    denied_requests: 3,
    duplicate_requests: 0,
    missing_requests: 0,
    recovered_requests: 0,
  })
  const start = new Date(Date.UTC(to.getUTCFullYear(), to.getUTCMonth()))
  t.strictSame(usage.buckets.at(-1)?.start, start)
  t.equal(usage.buckets.at(-1)?.allowed_requests, 9)

  const firstOfDays = new Date(Math.floor((to.getTime() - 1) / DAY_MS) * DAY_MS)
  const wholeDay = { from: firstOfDays, to: new Date(firstOfDays.getTime() + DAY_MS), by: 'day' } as const
  const day = await database.run((db) => readUsage(db, wholeDay))
  const [ofDay] = await sql<{ snapshots: number; allowed: number }[]>`
    select snapshots, allowed_requests::float8 as allowed from telemetry_days
    where extract(epoch from day) * 1000 = ${firstOfDays.getTime()}`
  t.hasStrict(day.buckets, [{ snapshots: ofDay?.snapshots, allowed_requests: ofDay?.allowed }])
  t.ok(Number(ofDay?.snapshots) > 0, 'the day is on record')

  const replicas = await database.run(listReplicas)
  t.strictSame(
    replicas.filter(({ replica_id }) => replica_id === replica.replicaId),
    [
      {
        replica_id: replica.replicaId,
        name: replica.name,
        version: replica.version,
        started_at: new Date(Math.floor(stored.started)),
        last_flush_at: new Date(Math.floor(stored.flushed)),
        seen_at: new Date(Math.floor(stored.seen)),
        state: 'live',
        reporting: false,
      },
    ],
  )
  t.strictSame(Buffer.from(await database.run(readSketchKey)), KEY)
}

/** Flushes a request of each of `ids` workspaces and users, and one denied request more. */
async function flushNext(
  database: Database,
  tracker: Tracker,
  replica: Parameters<typeof applyFlush>[1],
  ids: number,
) {
  for (let n = 0; n < ids; n++)
    tracker.track(`workspace ${n}`, `user ${n}`, n === 0 ? 4 - ids : 1, n === 0 ? 1 : 0)
  const flush = tracker.nextFlush()
  if (!flush) throw new Error('nothing to flush')
  const outcome = await database.run((db) => applyFlush(db, replica, flush))
  tracker.settle(flush, outcome.newPeriod)
  return outcome
}

t.test('no value of any setting changes a figure, a time or the key', async (t) => {
  const { url, sql } = await testDatabase(t)
  await sql`insert into boundary_usage_settings (sketch_key) values (${KEY})`
  const sets = await defaults(sql)
  t.ok(Object.keys(sets[0] ?? {}).length > 100, 'settings found')
  for (const [n, set] of sets.entries())
    await t.test(`value ${n + 1} of each setting`, async (t) => {
      t.comment(JSON.stringify(set))
      const settings = Object.entries(set).map(([name, value]) => `${name}=${value}`)
      const database = connectDatabase({ target: { url: withSettings(url, settings) }, poolMax: 1 })
      t.teardown(() => database.close())
      await checkPeriod(t, database, sql)
    })
})

for (const isolation of ['repeatable read', 'serializable'])
  t.test(`default_transaction_isolation = '${isolation}' refuses no flush and no snapshot`, async (t) => {
    const { url, sql } = await testDatabase(t, { unmigrated: true })
    const [{ name } = { name: '' }] = await sql`select current_database() as name`
    await sql`alter database ${sql(name)} set default_transaction_isolation = ${sql.unsafe(`'${isolation}'`)}`
    const replicas = await Promise.all(
      Array.from({ length: 3 }, () => startReplica(t, url, { ACK: 'durable' })), // on an empty database, together
    )
    const statuses = new Map<string, number>()
    for (let round = 0; round < 20; round++) {
      const responses = await Promise.all(
        replicas.flatMap((replica) => [
          replica.send({ logs: logs(2, 1) }).then(({ status }) => `batch ${status}`),
          replica.post('/telemetry/snapshot').then(({ status }) => `snapshot ${status}`),
          replica.get('/telemetry/snapshot').then(({ status }) => `preview ${status}`),
        ]),
      )
      for (const response of responses) statuses.set(response, (statuses.get(response) ?? 0) + 1)
    }
    const taken = statuses.get('snapshot 200') ?? 0
    const busy = statuses.get('snapshot 409') ?? 0 // another one was being taken
    t.equal(taken + busy, 60)
    t.ok(taken >= 20, `${taken} taken, ${busy} refused with 409`)
    t.equal(statuses.get('batch 202'), 60)
    t.equal(statuses.get('preview 200'), 60)
    for (const replica of replicas) await replica.app.counting.flush()
    await sql`set default_transaction_isolation = 'read committed'`
    const [row] = await sql`select
      (select coalesce(sum(allowed_requests), 0) from telemetry_snapshots)::int
      + (select coalesce(sum(allowed_requests), 0) from boundary_usage_stats)::int as allowed`
    t.equal(row?.allowed, 120)
  })

t.test('synchronous_commit = off: a crash of the server loses no batch of ACK=durable', async (t) => {
  // The WAL writer sleeps, so only a commit that waits for the disk reaches it.
  const server = await startPostgres({ synchronous_commit: 'off', wal_writer_delay: '10s' })
  t.teardown(() => server.remove())
  const replica = await startReplica(t, server.url, { ACK: 'durable' })
  for (let n = 0; n < 50; n++) t.equal((await replica.send({ logs: logs(2, 1) })).status, 202)
  await server.stop('immediate')
  await server.start()
  const preview = await until(
    async () => {
      const response = await replica.get('/telemetry/snapshot')
      return response.status === 200 && response.json()
    },
    { what: 'the server to answer again' },
  )
  t.hasStrict(preview, { allowed_requests: 100, denied_requests: 50 })
})

t.test('ACK=durable raises synchronous_commit to on, and never lowers it', async (t) => {
  const { url } = await testDatabase(t)
  const expected = { off: 'on', local: 'on', remote_write: 'on', on: 'on', remote_apply: 'remote_apply' }
  for (const durable of [true, false])
    for (const [value, raised] of Object.entries(expected)) {
      const target = { url: withSettings(url, [`synchronous_commit=${value}`]) }
      const database = connectDatabase({ target, poolMax: 1, durable })
      const [row] = await database.run((db) =>
        db.execute(drizzleSql`select current_setting('synchronous_commit') as value`),
      )
      await database.close()
      t.equal(row?.value, durable ? raised : value)
    }
})

t.test('a key of another length stops the start with a message', async (t) => {
  for (const length of [0, 16, 31, 33]) {
    const { url, sql } = await testDatabase(t)
    await sql`insert into boundary_usage_settings (sketch_key) values (${Buffer.alloc(length, 1)})`
    const service = await startProcess(t, { DATABASE_URL: url }, { until: 'spawned' })
    t.strictSame(await service.exited, { code: 1, signal: null })
    const { msg } = await service.log('cannot start')
    t.equal(
      msg,
      `cannot start: the sketch key in boundary_usage_settings has ${length} bytes, not 32: restore it from a backup`,
    )
  }
})
