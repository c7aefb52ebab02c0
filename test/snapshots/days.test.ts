// Days: each snapshot is merged into its day once, and usage read from days is that of the snapshots.

import assert from 'node:assert'
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import type postgres from 'postgres'
import t from 'tap'
import { applyFlush } from '../../src/counting/flush.js'
import type { Database } from '../../src/database/client.js'
import { DAY_MS, type UsageRange } from '../../src/snapshots/calendar.js'
import { mergeIntoDays } from '../../src/snapshots/days.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { type IntervalUsage, readUsage, type Usage } from '../../src/snapshots/usage.js'
import { testDatabase, untilBlocked } from '../helpers/database.js'
import { cases } from '../helpers/effort.js'
import { recordSnapshot } from '../helpers/history.js'
import { startReplica } from '../helpers/replica.js'
import { slowUsage } from '../helpers/slow-usage.js'
import { newTracker } from '../helpers/tracker.js'
import { until } from '../helpers/until.js'

const manual = { trigger: 'manual', reportedBy: randomUUID() } as const

async function mergeAll(database: Database): Promise<void> {
  while (await database.run((db) => mergeIntoDays(db)));
}

/** Snapshots and days, and how many snapshots are in their day. */
async function recorded(sql: postgres.Sql) {
  const [row] = await sql`select
    (select count(*)::int from telemetry_snapshots) as snapshots,
    (select count(*)::int from telemetry_snapshots where in_days) as in_days,
    (select coalesce(sum(snapshots), 0)::int from telemetry_days) as counted,
    (select coalesce(sum(allowed_requests), 0)::int from telemetry_snapshots where in_days) as merged_requests,
    (select coalesce(sum(allowed_requests), 0)::int from telemetry_days) as counted_requests`
  return row
}

t.test(
  'usage read from days equals that of the snapshots, whatever is merged and wherever a range begins',
  async (t) => {
    const { database, sql } = await testDatabase(t)
    const start = Date.parse('2026-05-25T00:00:00Z')
    const HALF_HOUR = 1_800_000
    const length = 12 * 48
    const history = fc.uniqueArray(
      fc.record({
        /** Half hours since `start`: every 48th ends at midnight. */
        end: fc.oneof(
          fc.nat(length),
          fc.nat(12).map((days) => days * 48),
        ),
        users: fc.uniqueArray(fc.nat(40).map(String), { maxLength: 12 }),
        hasSketches: fc.nat(9).map((n) => n > 0),
        isMerged: fc.boolean(),
        missing: fc.constantFrom(0, 1, Number.MAX_SAFE_INTEGER),
      }),
      { selector: ({ end }) => end, maxLength: 24 },
    )
    /** In milliseconds since `start`: at a midnight, the end of a period, or a millisecond beside. */
    const time = fc
      .tuple(
        fc.oneof(
          fc.nat(length + 48),
          fc.nat(13).map((days) => days * 48),
        ),
        fc.constantFrom(-1, 0, 1, 700_000),
      )
      .map(([halfHours, beside]) => halfHours * HALF_HOUR + beside)
    const range = fc.tuple(time, time, fc.constantFrom('day', 'week', 'month', 'hour')).map(([a, b, by]) => ({
      from: new Date(start + Math.min(a, b)),
      to: new Date(start + Math.max(a, b) + 1),
      by,
    }))
    let compared = 0
    const runs = cases({ suite: 12, soak: 300 })
    await fc.assert(
      fc.asyncProperty(
        history,
        fc.array(range, { minLength: 8, maxLength: 8 }),
        async (snapshots, ranges) => {
          await sql`truncate telemetry_snapshots, telemetry_days`
          for (const { end, users, hasSketches, isMerged, missing } of snapshots) {
            const time = new Date(start + end * HALF_HOUR).toISOString()
            const id = await recordSnapshot(sql, time, users, { hasSketches })
            await sql`update telemetry_snapshots set missing_requests = ${missing}, duplicate_requests = ${end} where id = ${id}`
            if (isMerged) await database.run((db) => mergeIntoDays(db, id))
          }
          for (const range of ranges) {
            const { total, buckets } = await database.run((db) => readUsage(db, range))
            const slow = await database.run((db) => slowUsage(db, range))
            assert.deepStrictEqual({ total: withoutNew(total), buckets: buckets.map(withoutNew) }, slow)
            compared++
          }
        },
      ),
      { numRuns: runs },
    )
    t.equal(compared, runs * 8)
  },
)

function withoutNew<T extends Usage>(usage: T) {
  const { new_workspaces: _1, new_users: _2, new_workspaces_error: _3, new_users_error: _4, ...rest } = usage
  return rest
}

t.test('a snapshot is in its day once it is taken, and a failure leaves neither', async (t) => {
  const { database, sql } = await testDatabase(t)
  const tracker = newTracker()
  tracker.track('workspace', 'user', 3, 1)
  const flush = tracker.nextFlush()
  if (!flush) throw new Error('nothing to flush')
  await database.run((db) => applyFlush(db, { replicaId: randomUUID(), name: 'test', version: '0' }, flush))

  const taking = sql.begin(async (tx) => {
    await tx`lock table telemetry_days`
    const taken = database.run((db) => takeSnapshot(db, manual))
    taken.catch(() => {}) // awaited below
    await untilBlocked(sql)
    await sql`select pg_cancel_backend(pid) from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`
    await t.rejects(taken, /canceled/)
  })
  await taking
  t.match(await recorded(sql), { snapshots: 0, counted: 0 })
  t.equal((await sql`select 1 from boundary_usage_stats`).length, 1)

  await database.run((db) => takeSnapshot(db, manual))
  t.strictSame(await recorded(sql), {
    snapshots: 1,
    in_days: 1,
    counted: 1,
    merged_requests: 3,
    counted_requests: 3,
  })
})

t.test('replicas that merge at the same time, amid snapshots, merge each snapshot once', async (t) => {
  const { database, sql } = await testDatabase(t)
  for (let n = 0; n < 120; n++)
    await recordSnapshot(sql, new Date(Date.parse('2026-03-01T00:00:00Z') + n * 1_800_000).toISOString(), [
      `${n}`,
    ])
  await Promise.all([
    ...Array.from({ length: 3 }, () => mergeAll(database)),
    (async () => {
      for (let n = 0; n < 5; n++) await database.run((db) => takeSnapshot(db, manual))
    })(),
  ])
  await mergeAll(database)
  t.strictSame(await recorded(sql), {
    snapshots: 125,
    in_days: 125,
    counted: 125,
    merged_requests: 1_200,
    counted_requests: 1_200,
  })
})

t.test('a step that fails changes nothing, and a later one continues', async (t) => {
  const { database, sql } = await testDatabase(t)
  for (let n = 0; n < 60; n++)
    await recordSnapshot(sql, new Date(Date.parse('2026-03-01T10:00:00Z') + n * 60_000).toISOString(), [
      `${n}`,
    ])
  t.equal(await database.run((db) => mergeIntoDays(db)), 50)
  await sql.begin(async (tx) => {
    await tx`lock table telemetry_days`
    const step = database.run((db) => mergeIntoDays(db))
    step.catch(() => {}) // awaited below
    await untilBlocked(sql)
    await sql`select pg_cancel_backend(pid) from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`
    await t.rejects(step, /canceled/)
  })
  t.match(await recorded(sql), { in_days: 50, counted: 50 })
  t.equal(await database.run((db) => mergeIntoDays(db)), 10)
  t.match(await recorded(sql), { in_days: 60, counted: 60 })
})

t.test('a snapshot that a delivery holds is merged later, without waiting for it', async (t) => {
  const { database, sql } = await testDatabase(t)
  const held = await recordSnapshot(sql, '2026-03-01T10:00:00Z', ['a'])
  await recordSnapshot(sql, '2026-03-01T11:00:00Z', ['b'])
  await sql.begin(async (tx) => {
    await tx`select 1 from telemetry_snapshots where id = ${held} for update`
    t.equal(await database.run((db) => mergeIntoDays(db)), 1)
  })
  t.equal(await database.run((db) => mergeIntoDays(db)), 1)
  t.match(await recorded(sql), { in_days: 2, counted: 2 })
})

t.test(
  'a replica merges the history that it finds, and after a snapshot what another version added',
  async (t) => {
    const { url, sql } = await testDatabase(t)
    const first = Date.parse('2026-03-01T00:00:00Z')
    for (let n = 1; n <= 120; n++)
      await recordSnapshot(sql, new Date(first + n * 1_800_000).toISOString(), ['a'])
    const replica = await startReplica(t, url)
    const all = (n: number) =>
      until(async () => (await recorded(sql))?.counted === n, { what: `${n} snapshots in their days` })
    await all(120)
    const days = await sql`select day::text, snapshots from telemetry_days order by day`
    t.strictSame(
      [...days],
      [
        { day: '2026-03-01', snapshots: 48 },
        { day: '2026-03-02', snapshots: 48 },
        { day: '2026-03-03', snapshots: 24 },
      ],
      'a snapshot at midnight belongs to the day before',
    )
    await recordSnapshot(sql, '2026-03-05T10:00:00Z', ['a'])
    await replica.post('/telemetry/snapshot')
    await all(122)
  },
)

/** Users `from` to `to`. */
const ids = function* (from: number, to: number) {
  for (let n = from; n < to; n++) yield `user-${n}`
}

async function newOn(database: Database, range: UsageRange): Promise<IntervalUsage> {
  const { buckets } = await database.run((db) => readUsage(db, range))
  const last = buckets.at(-1)
  if (!last) throw new Error('no bucket')
  return last
}

t.test('new users are those of no earlier day, to within the error that is reported with them', async (t) => {
  const { database, sql } = await testDatabase(t)
  // Monday, 1 June 2026 begins a day, a week and a month.
  const from = new Date('2026-06-01T00:00:00Z')
  const to = new Date('2026-06-02T00:00:00Z')
  for (const [before, overlap, added, largestError] of [
    [0, 0, 10, 0],
    [10, 5, 5, 0],
    [100, 50, 100, 1],
    [1_000, 1_000, 0, 1],
    [1_000, 500, 1_000, 9],
    [10_000, 5_000, 1_000, 25],
    [100_000, 50_000, 10, 16],
    [100_000, 1_000, 1_000, 105],
    [100_000, 50_000, 100_000, 1_400],
  ] as const) {
    await sql`truncate telemetry_snapshots, telemetry_days`
    if (before > 0) await recordSnapshot(sql, '2026-05-30T12:00:00Z', ids(0, before))
    await recordSnapshot(sql, '2026-06-01T12:00:00Z', ids(before - overlap, before + added))
    for (const isMerged of [false, true]) {
      if (isMerged) await mergeAll(database)
      for (const by of ['day', 'week', 'month'] as const) {
        const { new_users, new_users_error, new_workspaces } = await newOn(database, { from, to, by })
        const what = `${added} of ${overlap + added} after ${before}, by ${by}: ${new_users} ± ${new_users_error}`
        t.ok(Math.abs(Number(new_users) - added) <= 3 * Number(new_users_error) + 1, what)
        t.ok(Number(new_users_error) <= largestError, what)
        t.equal(new_workspaces, new_users)
      }
    }
  }
})

t.test(
  'the day in which a range begins is not an earlier day of itself, but is, as a whole, for the next one',
  async (t) => {
    const { database, sql } = await testDatabase(t)
    await recordSnapshot(sql, '2026-06-01T09:00:00Z', ['morning', 'both'])
    await recordSnapshot(sql, '2026-06-01T15:00:00Z', ['both', 'afternoon'])
    await recordSnapshot(sql, '2026-06-02T10:00:00Z', ['morning', 'both', 'afternoon', 'late'])
    const range = (from: string): UsageRange => ({
      from: new Date(from),
      to: new Date('2026-06-02T11:00:00Z'),
      by: 'day',
    })
    for (const isMerged of [false, true]) {
      if (isMerged) await mergeAll(database)
      const { total, buckets } = await database.run((db) => readUsage(db, range('2026-06-01T12:00:00Z')))
      t.strictSame(
        buckets.map(({ new_users }) => new_users),
        [2, 1],
      )
      t.equal(total.new_users, 4)
      const next = await database.run((db) => readUsage(db, range('2026-06-02T09:00:00Z')))
      t.strictSame([next.total.new_users, next.buckets[0]?.new_users], [1, 1])
    }
    await recordSnapshot(sql, '2026-06-02T10:30:00Z', ['x', 'y'], { hasSketches: false })
    const next = await database.run((db) => readUsage(db, range('2026-06-02T09:00:00Z')))
    t.equal(next.total.new_users, 3, 'users of a version without sketches share nothing with others')
  },
)

t.test('a range of many days reads no snapshot that is in its day', async (t) => {
  const { database, sql } = await testDatabase(t)
  for (let n = 0; n < 10; n++)
    await recordSnapshot(sql, new Date(Date.parse('2026-03-01T10:00:00Z') + n * DAY_MS).toISOString(), [
      `${n}`,
    ])
  await mergeAll(database)
  await sql`delete from telemetry_snapshots`
  const range = {
    from: new Date('2026-03-01T00:00:00Z'),
    to: new Date('2026-03-11T00:00:00Z'),
    by: 'month',
  } as const
  const { total } = await database.run((db) => readUsage(db, range))
  t.match(total, { snapshots: 10, allowed_requests: 100, new_users: total.unique_users })
  t.ok(Math.abs(total.unique_users - 10) <= 1)
})
