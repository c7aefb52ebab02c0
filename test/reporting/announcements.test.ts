// The messages that replicas send each other.

import { randomUUID } from 'node:crypto'
import { sql as drizzle } from 'drizzle-orm'
import t from 'tap'
import { openListener } from '../../src/database/listener.js'
import { channel } from '../../src/database/locks.js'
import { announce, announceCall, parseAnnouncement } from '../../src/reporting/announcements.js'
import { TIMING } from '../../src/timing.js'
import { testDatabase } from '../helpers/database.js'
import { startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

t.test('what is announced is heard, with the moment of a call by the database', async (t) => {
  const { url, database } = await testDatabase(t)
  const heard: unknown[] = []
  const listener = openListener({
    target: { url },
    timing: TIMING,
    onMessage: (message) => heard.push(parseAnnouncement(message)),
    onLost: () => {},
  })
  t.teardown(() => listener.close())
  await listener.run(async () => {})
  const by = randomUUID()
  const called = await database.run((db) => announceCall(db, by))
  t.ok(Math.abs(called - Date.now()) < 60_000)
  await database.run((db) => announce(db, { kind: 'taken', until: called, by }))
  await until(() => heard.length === 2, { what: 'both messages' })
  t.strictSame(heard, [
    { kind: 'call', until: called, by },
    { kind: 'taken', until: called, by },
  ])
})

t.test('a message of another version or origin is none', async (t) => {
  for (const message of [
    '',
    'call',
    'call soon x',
    `else 1 ${randomUUID()}`,
    `call 1.5 ${randomUUID()}`,
    `call -1 ${randomUUID()}`,
  ])
    t.equal(parseAnnouncement(message), undefined)
})

t.test('what no replica can have announced changes nothing', async (t) => {
  const { url, sql, database } = await testDatabase(t)
  const replica = await startReplica(t, url, { ACK: 'durable', SNAPSHOT_INTERVAL_MS: '1000' })
  const by = randomUUID()
  for (const kind of ['call', 'taken', 'released'])
    for (const moment of [9_999_999_999_999, 999_999_999_999_999, -999_999_999_999_999, Date.now() + 600_000])
      await database.run((db) =>
        db.execute(drizzle`
        select pg_notify(${channel}, ${`${kind} ${moment} ${by}`})`),
      )
  const called = await database.run((db) => announceCall(db, by))
  const reported = async () => {
    const [row] = await sql`select reported_until from boundary_usage_replicas`
    return row?.reported_until?.getTime() ?? 0
  }
  await until(async () => (await reported()) >= called, { what: 'what came after them to be heard' })
  t.ok((await reported()) < Date.now() + 60_000)
  t.equal((await replica.send()).status, 202, 'it flushes')
  await until(
    async () =>
      (await sql`select from telemetry_snapshots where period_end > ${new Date(called)}`).length > 0,
    { what: 'a scheduled snapshot' },
  )
})

t.test('a connection that was closed is reported, and listens again', async (t) => {
  const { url, sql, database } = await testDatabase(t)
  const heard: string[] = []
  let lost = 0
  const listener = openListener({
    target: { url },
    timing: { ...TIMING, reconnectMs: 10 },
    onMessage: (message) => heard.push(message),
    onLost: () => lost++,
  })
  t.teardown(() => listener.close())
  await listener.run(async () => {})
  await sql`select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and application_name = 'boundary-usage'`
  await until(() => lost === 1, { what: 'the loss to be reported' })
  await listener.run(async () => {})
  await database.run((db) => announce(db, { kind: 'released', until: 1, by: randomUUID() }))
  await until(() => heard.length === 1, { what: 'a message' })
})
