// Missing and recovered logs: each is reported once, and the balance of a silent session holds.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import type { Database } from '../../src/database/client.js'
import { previewSnapshot, takeSnapshot } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { newReplica, sessionOf } from '../helpers/ledger.js'
import { keyOf } from '../helpers/tracker.js'

/** What a snapshot says about sessions; every session is silent unless `silenceMs` says otherwise. */
async function snapshot(database: Database, silenceMs = 0) {
  const outcome = await database.run((db) =>
    takeSnapshot(db, { trigger: 'manual', reportedBy: randomUUID(), silenceMs }),
  )
  if (outcome.result !== 'taken') throw new Error(outcome.result)
  const { allowed_requests, duplicate_requests, missing_requests, recovered_requests } = outcome.snapshot
  return [allowed_requests, duplicate_requests, missing_requests, recovered_requests]
}

t.test('missing logs are reported once, when their session has been silent for 10 minutes', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = newReplica(database)
  replica.track('s', { allowed: [1, 5, 8, 9] })
  await replica.flush()
  t.strictSame(await snapshot(database, 600_000), [5, 0, 0, 0], 'not before')
  await sql`update boundary_usage_sessions set last_seen_at = now() - interval '10 minutes'`
  const preview = await database.run((db) => previewSnapshot(db, { reportedBy: randomUUID() }))
  t.equal(preview.missing_requests, 4, 'a preview shows what a snapshot would report')
  t.strictSame(await snapshot(database, 600_000), [0, 0, 4, 0])
  t.strictSame(await sessionOf(sql, 's'), { received: '{[1,5),[8,9)}', counted_from: 0, told_to: 9 })
  t.strictSame(await snapshot(database), [0, 0, 0, 0], 'and not again')
})

t.test('a missing log that arrives is recovered, and one never reported is not', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = newReplica(database)
  replica.track('s', { allowed: [0, 1, 9, 10] })
  await replica.flush()
  t.strictSame(await snapshot(database), [2, 0, 8, 0])
  replica.track('s', { allowed: [2, 4, 12, 13], skipped: [4, 5] })
  await replica.flush()
  t.strictSame(await snapshot(database), [3, 0, 2, 3], '10 and 11 are missing now, 2 to 4 recovered')
  replica.track('s', { allowed: [0, 13] })
  await replica.flush()
  t.strictSame(await snapshot(database), [7, 6, 0, 7], '6 of the first 8 and 2 of the second')
  t.strictSame(await sessionOf(sql, 's'), { received: '{[0,13)}', counted_from: 0, told_to: 13 })
  t.strictSame(await snapshot(database), [0, 0, 0, 0])
})

t.test('a hole of over 1,000,000 numbers is a jump: neither missing nor recovered', async (t) => {
  const { database } = await testDatabase(t)
  const replica = newReplica(database)
  const far = 1 + 1_000_000
  const further = far + 1 + 1_000_001
  replica.track('s', { allowed: [0, 1, far, far + 1, further, further + 1] })
  await replica.flush()
  t.strictSame(await snapshot(database), [3, 0, 1_000_000, 0])
  replica.track('s', { allowed: [5, 10, far + 5, far + 15] })
  await replica.flush()
  t.strictSame(await snapshot(database), [15, 0, 0, 5], 'what arrives in the jump counts, and was not told')
  replica.track('s', { allowed: [far + 20, far + 21] })
  await replica.flush()
  t.strictSame(await snapshot(database), [1, 0, 0, 0], 'also once the rest of the jump is shorter')
})

t.test('numbers below counted_from are not missing', async (t) => {
  const { database } = await testDatabase(t)
  const replica = newReplica(database)
  replica.track('s', { allowed: [1_000, 1_001, 1_003, 1_004] })
  await replica.flush()
  t.strictSame(await snapshot(database), [2, 0, 2, 0])
  replica.track('s', { allowed: [998, 1_002] })
  await replica.flush()
  t.strictSame(await snapshot(database), [3, 1, 0, 1], '1001 was told, 998 and 999 were not')
})

t.test('a snapshot reports at most 10,000 sessions, the next one the rest', async (t) => {
  const { database, sql } = await testDatabase(t)
  // By these statistics the snapshot finds one session at most.
  await sql`insert into boundary_usage_sessions (session_key, received, has_new_holes, last_seen_at)
    values (gen_random_uuid(), '{[0,1)}', false, now() - interval '1 day')`
  await sql`analyze boundary_usage_sessions`
  await sql`insert into boundary_usage_sessions (session_key, received, last_seen_at)
    select gen_random_uuid(), '{[1,2)}', now() - interval '1 day' from generate_series(1, 10001)`
  t.strictSame(await snapshot(database), [0, 0, 10_000, 0])
  t.strictSame(await snapshot(database), [0, 0, 1, 0])
  t.strictSame(await snapshot(database), [0, 0, 0, 0])
})

t.test('a snapshot examines few sessions that are full of holes, the next one the rest', async (t) => {
  const { database, sql } = await testDatabase(t)
  await sql`insert into boundary_usage_sessions (session_key, received, last_seen_at)
    select gen_random_uuid(), (select range_agg(int8range(2 * n + 1, 2 * n + 2)) from generate_series(0, 4999) as n),
      now() - interval '1 day' from generate_series(1, 400)`
  const reports: unknown[] = []
  for (let n = 0; n < 3; n++) reports.push((await snapshot(database))[2])
  t.equal(Math.max(...reports.map(Number)) < 200 * 5_000, true, `${reports}`)
  t.equal(
    reports.reduce((sum: number, missing) => sum + Number(missing), 0),
    400 * 5_000,
  )
})

t.test('sums of missing logs stop at the largest safe integer', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = newReplica(database)
  replica.track('s', { allowed: [0, 1] })
  await replica.flush()
  await sql`update boundary_usage_stats set missing_requests = ${Number.MAX_SAFE_INTEGER - 3}`
  await sql`insert into boundary_usage_sessions (session_key, received, last_seen_at)
    values (gen_random_uuid(), '{[9,10)}', now() - interval '1 day')`
  t.strictSame(await snapshot(database), [1, 0, Number.MAX_SAFE_INTEGER, 0])
})

t.test('the highest number that an agent may send is handled like any other', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = newReplica(database)
  const highest = Number.MAX_SAFE_INTEGER - 1
  replica.track('s', { allowed: [0, 1, highest, highest + 1] })
  await replica.flush()
  replica.track('s', { allowed: [highest - 1, highest + 1] })
  t.equal((await replica.flush()).duplicates, 1)
  t.strictSame(await snapshot(database), [3, 1, 0, 0])
  t.equal((await sessionOf(sql, 's'))?.told_to, highest + 1)
})

t.test('while a replica without a ledger has flushed within an hour, nothing is reported', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = newReplica(database)
  replica.track('told', { allowed: [0, 1, 2, 3] })
  replica.track('silent', { allowed: [0, 1, 2, 3] })
  await replica.flush()
  await sql`update boundary_usage_sessions set last_seen_at = now() - interval '1 day'
    where session_key = ${keyOf('w', 'told')}`
  t.strictSame(await snapshot(database, 60_000), [4, 0, 1, 0])

  const older = randomUUID()
  await sql`insert into boundary_usage_replicas
    (replica_id, name, version, started_at, last_flush_seq, last_flush_at)
    values (${older}, 'older', '0.1.0', now(), 1, now() - interval '59 minutes')`
  replica.track('active', { allowed: [0, 1, 2, 3] })
  await replica.flush()
  replica.track('active', { allowed: [4, 5] })
  await replica.flush()
  t.strictSame(await snapshot(database), [3, 0, 0, 0])
  t.equal((await sessionOf(sql, 'silent'))?.counted_from, 3)
  t.equal((await sessionOf(sql, 'active'))?.counted_from, 5, 'also if it goes silent only later')

  await sql`update boundary_usage_replicas set last_flush_at = now() - interval '61 minutes'
    where replica_id = ${older}`
  for (const session of ['told', 'silent', 'active']) replica.track(session, { allowed: [6, 7] })
  await replica.flush()
  t.strictSame(await snapshot(database), [3, 0, 3 + 3 + 1, 0], 'only what is missing since then')
  for (const session of ['told', 'silent', 'active']) replica.track(session, { allowed: [0, 7] })
  await replica.flush()
  // In the order of the sessions. Numbers that were reported are recovered: 1 and 3 to 5, 3 to 5, and 5.
  t.strictSame(await snapshot(database), [4 + 4 + 3, 3 + 3 + 4, 0, 4 + 3 + 1])
})

t.test(
  'a snapshot does not wait for a session that a flush holds, and the next one reports it',
  async (t) => {
    const { database, sql } = await testDatabase(t)
    const replica = newReplica(database)
    for (const session of ['a', 'b']) replica.track(session, { allowed: [1, 2] })
    await replica.flush()
    await sql.begin(async (tx) => {
      await tx`select 1 from boundary_usage_sessions where session_key = ${keyOf('w', 'a')} for update`
      t.strictSame(await snapshot(database), [2, 0, 1, 0])
    })
    t.strictSame(await snapshot(database), [0, 0, 1, 0])
  },
)
