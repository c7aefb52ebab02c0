// The snapshot against a real PostgreSQL: exactly one per period, whole or not at all.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { applyFlush } from '../../src/counting/flush.js'
import type { Database } from '../../src/database/client.js'
import { connectDatabase } from '../../src/database/client.js'
import { boundaryBefore } from '../../src/reporting/clock.js'
import {
  previewSnapshot,
  type SnapshotOutcome,
  type SnapshotRequest,
  takeSnapshot,
} from '../../src/snapshots/snapshot.js'
import { testDatabase, untilBlocked } from '../helpers/database.js'
import { newTracker } from '../helpers/tracker.js'

const replicaId = randomUUID()
const manual: SnapshotRequest = { trigger: 'manual', reportedBy: replicaId }

/** Flushes one batch of a replica of its own. */
async function use(database: Database, allowed: number, denied: number): Promise<void> {
  const tracker = newTracker()
  tracker.track(randomUUID(), randomUUID(), allowed, denied)
  const batch = tracker.nextFlush()
  if (!batch) throw new Error('nothing to flush')
  const replica = { replicaId: randomUUID(), name: 'test', version: '0.0.0' }
  await database.run((db) => applyFlush(db, replica, batch))
}

function taken(outcome: SnapshotOutcome) {
  if (outcome.result !== 'taken') throw new Error(`not taken: ${outcome.result}`)
  return outcome.snapshot
}

t.test('it sums the rows of all replicas, deletes them and records the sum', async (t) => {
  const { database, sql } = await testDatabase(t)
  await use(database, 3, 1)
  await use(database, 4, 0)
  const snapshot = taken(await database.run((db) => takeSnapshot(db, manual)))
  t.hasStrict(snapshot, {
    trigger: 'manual',
    reported_by: replicaId,
    replicas: 2,
    unique_workspaces: 2,
    unique_users: 2,
    unique_workspaces_summed: 2,
    unique_users_summed: 2,
    allowed_requests: 7,
    denied_requests: 1,
  })
  t.equal(snapshot.period_duration_ms, snapshot.period_end.getTime() - snapshot.period_start.getTime())
  t.strictSame([...(await sql`select * from boundary_usage_stats`)], [])
  const [row] = await sql`select id, period_start, period_end from telemetry_snapshots`
  t.equal(row?.id, snapshot.id)
  t.strictSame(row?.period_end, snapshot.period_end)
})

t.test(
  'periods are contiguous: each one starts where the previous one ended, even if it is empty',
  async (t) => {
    const { database } = await testDatabase(t)
    await use(database, 1, 0)
    const first = taken(await database.run((db) => takeSnapshot(db, manual)))
    const second = taken(await database.run((db) => takeSnapshot(db, manual)))
    t.strictSame(second.period_start, first.period_end)
    t.ok(second.period_end > second.period_start)
    t.hasStrict(second, { replicas: 0, allowed_requests: 0, unique_users: 0 })
  },
)

t.test('a preview shows what a snapshot would record, and changes nothing', async (t) => {
  const { database, sql } = await testDatabase(t)
  await use(database, 5, 2)
  const preview = await database.run((db) => previewSnapshot(db, { reportedBy: replicaId }))
  t.hasStrict(preview, { id: null, replicas: 1, allowed_requests: 5, denied_requests: 2 })
  t.equal((await sql`select 1 from boundary_usage_stats`).length, 1)
  const snapshot = taken(await database.run((db) => takeSnapshot(db, manual)))
  t.strictSame(snapshot.period_start, preview.period_start)
})

t.test('a snapshot that fails midway deletes nothing', async (t) => {
  const { database, sql } = await testDatabase(t)
  await use(database, 5, 2)
  await sql`create function refuse() returns trigger language plpgsql as 'begin raise exception ''disk full''; end'`
  await sql`create trigger refuse before insert on telemetry_snapshots execute function refuse()`
  await t.rejects(
    database.run((db) => takeSnapshot(db, manual)),
    { message: 'disk full' },
  )
  await sql`drop trigger refuse on telemetry_snapshots`
  t.hasStrict(taken(await database.run((db) => takeSnapshot(db, manual))), {
    allowed_requests: 5,
    denied_requests: 2,
  })
})

t.test('while a snapshot is being taken, another one is refused and deletes nothing', async (t) => {
  const { database, sql } = await testDatabase(t)
  await use(database, 5, 2)
  let first: Promise<SnapshotOutcome> | undefined
  await sql.begin(async (tx) => {
    // Holds the first one at its insert: it has the lock, and has deleted.
    await tx`lock table telemetry_snapshots in share mode`
    first = database.run((db) => takeSnapshot(db, manual))
    await untilBlocked(sql)
    t.hasStrict(await database.run((db) => takeSnapshot(db, manual)), { result: 'busy' })
  })
  t.hasStrict(await first, { result: 'taken', snapshot: { allowed_requests: 5 } })
})

t.test('a scheduled period ends at the boundary of the interval, by the clock of the database', async (t) => {
  const { database, sql } = await testDatabase(t)
  await use(database, 1, 0)
  await sql`update boundary_usage_replicas set started_at = now() - interval '3 hours'`
  const scheduled = {
    trigger: 'schedule',
    reportedBy: replicaId,
    until: boundaryBefore(Date.now(), 3_600_000),
  } as const
  const snapshot = taken(await database.run((db) => takeSnapshot(db, scheduled)))
  t.equal(snapshot.period_end.getTime() % 3_600_000, 0)
  t.ok(snapshot.taken_at.getTime() - snapshot.period_end.getTime() < 3_600_000)
  t.hasStrict(
    await database.run((db) => takeSnapshot(db, scheduled)),
    { result: 'not_due' },
    'and is recorded once',
  )
})

t.test(
  'a boundary that the clock of the database has not reached is early, and is taken once it has',
  async (t) => {
    const { database, sql } = await testDatabase(t)
    await use(database, 1, 0)
    await sql`update boundary_usage_replicas set started_at = now() - interval '3 hours'`
    const scheduled = (until: number) => ({ trigger: 'schedule', reportedBy: replicaId, until }) as const
    t.hasStrict(
      await database.run((db) => takeSnapshot(db, scheduled(Date.now() + 3_600_000))),
      { result: 'early' },
      'so the schedule tries again',
    )
    const soon = Date.now() + 100
    const snapshot = taken(await database.run((db) => takeSnapshot(db, scheduled(soon))))
    t.equal(snapshot.period_end.getTime(), soon)
    t.ok(snapshot.taken_at.getTime() >= soon, 'it waits for a boundary that is near')
  },
)

t.test('a manual snapshot after a boundary takes the place of the scheduled one', async (t) => {
  const { database, sql } = await testDatabase(t)
  await use(database, 1, 0)
  await sql`update boundary_usage_replicas set started_at = now() - interval '3 days'`
  await database.run((db) => takeSnapshot(db, manual))
  t.hasStrict(
    await database.run((db) =>
      takeSnapshot(db, {
        trigger: 'schedule',
        reportedBy: replicaId,
        until: boundaryBefore(Date.now(), 86_400_000),
      }),
    ),
    { result: 'not_due' },
  )
})

t.test('no period is reported that ended before the first replica started', async (t) => {
  const { database } = await testDatabase(t)
  await use(database, 1, 0)
  const request = {
    trigger: 'schedule',
    reportedBy: replicaId,
    until: boundaryBefore(Date.now(), 86_400_000),
  } as const
  t.hasStrict(await database.run((db) => takeSnapshot(db, request)), { result: 'not_due' })
})

t.test('periods keep their order when the clock of the database is set back', async (t) => {
  const { database, sql } = await testDatabase(t)
  await use(database, 1, 0)
  const first = taken(await database.run((db) => takeSnapshot(db, manual)))
  await sql`update telemetry_snapshots set period_end = period_end + interval '1 hour'`
  const second = taken(await database.run((db) => takeSnapshot(db, manual)))
  t.equal(second.period_start.getTime(), first.period_end.getTime() + 3_600_000)
  t.equal(second.period_duration_ms, 1)
})

t.test('twenty replicas racing for one scheduled period record one snapshot', async (t) => {
  const { database, url, sql } = await testDatabase(t)
  for (let n = 1; n <= 20; n++) await use(database, n, 0)
  await sql`update boundary_usage_replicas set started_at = now() - interval '3 hours'`
  const replicas = Array.from({ length: 20 }, () => connectDatabase({ target: { url }, poolMax: 1 }))
  t.teardown(() => Promise.all(replicas.map((replica) => replica.close())))
  await Promise.all(replicas.map((replica) => replica.run((db) => db.execute('select 1')))) // all connected
  const outcomes = await Promise.all(
    replicas.map((replica) =>
      replica.run((db) =>
        takeSnapshot(db, {
          trigger: 'schedule',
          reportedBy: randomUUID(),
          until: boundaryBefore(Date.now(), 3_600_000),
        }),
      ),
    ),
  )
  const results = outcomes.map((outcome) => outcome.result)
  t.equal(results.filter((result) => result === 'taken').length, 1, results.join(' '))
  const rows = await sql`select replicas, allowed_requests from telemetry_snapshots`
  t.strictSame(
    rows.map((row) => ({ ...row })),
    [{ replicas: 20, allowed_requests: '210' }],
  )
})
