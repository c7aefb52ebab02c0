// Retention removes old rows in small steps, and never removes usage.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { pruneReplicas, pruneSessions, pruneSnapshots } from '../../src/snapshots/retention.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { newReplica, sessionOf } from '../helpers/ledger.js'
import { startReplica } from '../helpers/replica.js'
import { keyOf } from '../helpers/tracker.js'
import { until } from '../helpers/until.js'

t.test(
  'snapshots older than the retention are deleted once they are in their day, a hundred at a time',
  async (t) => {
    const { database, sql } = await testDatabase(t)
    await sql`insert into telemetry_snapshots
    (id, trigger, reported_by, replicas, period_start, period_end, taken_at, unique_workspaces, unique_users,
     unique_workspaces_summed, unique_users_summed, allowed_requests, denied_requests, in_days)
    select gen_random_uuid(), 'manual', gen_random_uuid(), 0, moment, moment, moment, 0, 0, 0, 0, 0, 0, n <> 480
    from (select n, now() - n * interval '1 hour' as moment from generate_series(1, 24 * 20) as n) as moments`
    const count = async () => (await sql`select count(*)::int as n from telemetry_snapshots`)[0]?.n
    const kept = 24 * 10 - 1 + 1 // and the oldest, which is not in its day
    for (const left of [380, 280]) {
      t.equal(await database.run((db) => pruneSnapshots(db, 10)), true)
      t.equal(await count(), left)
    }
    t.equal(await database.run((db) => pruneSnapshots(db, 10)), false)
    t.ok(Math.abs((await count()) - kept) <= 1)
    t.equal((await sql`select 1 from telemetry_snapshots where not in_days`).length, 1)
  },
)

t.test(
  'replicas that stopped long ago are deleted, those with usage or a recent flush are kept',
  async (t) => {
    const { database, sql } = await testDatabase(t)
    const [dead, silent, fresh, used] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()]
    for (const [id, started, flushed] of [
      [dead, 90, 31],
      [silent, 31, null],
      [fresh, 90, 1],
      [used, 90, 60],
    ] as const)
      await sql`insert into boundary_usage_replicas values (${id}, 'test', '0', now() - ${started} * interval '1 day',
      1, now() - ${flushed}::int * interval '1 day')`
    await sql`insert into boundary_usage_stats (replica_id, unique_workspaces_count, unique_users_count,
    allowed_requests, denied_requests, first_flush_seq, window_start, updated_at)
    values (${used}, 1, 1, 1, 1, 1, now() - interval '60 days', now() - interval '60 days')`
    t.equal(await database.run(pruneReplicas), false)
    const left = await sql`select replica_id from boundary_usage_replicas`
    t.strictSame(new Set(left.map(({ replica_id }) => replica_id)), new Set([fresh, used]))
  },
)

t.test('the replica that takes a snapshot prunes', async (t) => {
  const { url, sql } = await testDatabase(t)
  const replica = await startReplica(t, url, { SNAPSHOT_RETENTION_DAYS: '1' })
  await replica.post('/telemetry/snapshot')
  await sql`update telemetry_snapshots set period_start = period_start - interval '2 days',
    period_end = period_end - interval '2 days'`
  await replica.post('/telemetry/snapshot')
  for (let left = 2; left !== 1; )
    left = (await sql`select count(*)::int as n from telemetry_snapshots`)[0]?.n
  t.pass('one is left')
})

t.test('sessions are forgotten when they are old and their holes were reported', async (t) => {
  const { database, sql } = await testDatabase(t)
  const age = async (session: string, days: number) =>
    sql`update boundary_usage_sessions set last_seen_at = now() - ${days} * interval '1 day'
      where session_key = ${keyOf('w', session)}`
  const replica = newReplica(database)
  for (const session of ['whole', 'recent', 'held']) replica.track(session, { allowed: [0, 3] })
  replica.track('with holes', { allowed: [0, 1, 2, 3] })
  await replica.flush()
  for (const session of ['whole', 'held', 'with holes']) await age(session, 31)
  await age('recent', 29)
  const left = async () => {
    const found = []
    for (const session of ['whole', 'recent', 'held', 'with holes'])
      if (await sessionOf(sql, session)) found.push(session)
    return found
  }
  await sql.begin(async (tx) => {
    await tx`select 1 from boundary_usage_sessions where session_key = ${keyOf('w', 'held')} for update`
    t.equal(await database.run((db) => pruneSessions(db, 30)), false)
  })
  t.strictSame(await left(), ['recent', 'held', 'with holes'])
  await database.run((db) => takeSnapshot(db, { trigger: 'manual', reportedBy: randomUUID() }))
  await database.run((db) => pruneSessions(db, 30))
  t.strictSame(await left(), ['recent'])

  replica.track('whole', { allowed: [0, 3] })
  t.equal((await replica.flush()).duplicates, 0, 'a log sent again later counts again')
})

t.test('a session that a flush has just updated is not forgotten', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = newReplica(database)
  replica.track('s', { allowed: [0, 3] })
  await replica.flush()
  await sql`update boundary_usage_sessions set last_seen_at = now() - interval '31 days'`
  let forgetting: Promise<boolean> | undefined
  await sql.begin(async (tx) => {
    await tx`update boundary_usage_sessions set last_seen_at = now()`
    forgetting = database.run((db) => pruneSessions(db, 30))
    await forgetting
  })
  t.equal(await forgetting, false)
  t.equal((await sql`select 1 from boundary_usage_sessions`).length, 1)
})

t.test('every replica forgets old sessions regularly', async (t) => {
  const { url, sql } = await testDatabase(t)
  await sql`insert into boundary_usage_sessions (session_key, received, has_new_holes, last_seen_at)
    select gen_random_uuid(), '{[0,1)}', false, now() - n * interval '1 day' from generate_series(1, 250) as n`
  await startReplica(t, url, { SESSION_RETENTION_DAYS: '20' }, { sessionRetentionMs: 10 })
  await until(async () => (await sql`select 1 from boundary_usage_sessions`).length === 19, {
    what: 'the removal of old sessions',
  })
})
