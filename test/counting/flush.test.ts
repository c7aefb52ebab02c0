// Flushes on a real PostgreSQL are applied once, whether or not their responses arrive.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { applyFlush } from '../../src/counting/flush.js'
import { beat } from '../../src/counting/replica.js'
import type { Flush, Tracker } from '../../src/counting/tracker.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { testDatabase, untilBlocked } from '../helpers/database.js'
import { newTracker } from '../helpers/tracker.js'

const fresh = () => ({ replicaId: randomUUID(), name: 'test', version: '0.0.0' })

function nextFlush(tracker: Tracker): Flush {
  const flush = tracker.nextFlush()
  if (!flush) throw new Error('nothing to flush')
  return flush
}

t.test('two flushes in one period with different ids count both', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = fresh()
  const tracker = newTracker()
  for (const id of ['a', 'b']) {
    tracker.track(`workspace ${id}`, `owner ${id}`, 2, 1)
    const flush = nextFlush(tracker)
    const outcome = await database.run((db) => applyFlush(db, replica, flush))
    t.equal(outcome.result, 'applied')
    tracker.settle(flush, outcome.newPeriod)
  }
  const [row] = await sql`select unique_workspaces_count, unique_users_count, allowed_requests,
    denied_requests, first_flush_seq from boundary_usage_stats`
  t.strictSame(
    { ...row },
    {
      unique_workspaces_count: '2',
      unique_users_count: '2',
      allowed_requests: '4',
      denied_requests: '2',
      first_flush_seq: '1',
    },
  )
})

t.test('ids of the last period do not leak into the next', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = fresh()
  const tracker = newTracker()
  const flushNext = async () => {
    const flush = nextFlush(tracker)
    const { newPeriod } = await database.run((db) => applyFlush(db, replica, flush))
    tracker.settle(flush, newPeriod)
    return newPeriod
  }
  tracker.track('old 1', 'old 1', 1, 0)
  tracker.track('old 2', 'old 2', 1, 0)
  t.equal(await flushNext(), true, 'the first flush opens a period')
  await database.run((db) => takeSnapshot(db, { trigger: 'manual', reportedBy: replica.replicaId }))

  tracker.track('new 1', 'new 1', 1, 0)
  t.equal(await flushNext(), true, 'so does the first after a snapshot')
  tracker.track('new 2', 'new 2', 1, 0)
  t.equal(await flushNext(), false)
  const [row] = await sql`select unique_workspaces_count, unique_users_count from boundary_usage_stats`
  t.strictSame({ ...row }, { unique_workspaces_count: '2', unique_users_count: '2' })
})

t.test('a lost response counts once: the same flush again changes nothing', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = fresh()
  const tracker = newTracker()
  tracker.track('w', 'o', 3, 4)
  const flush = nextFlush(tracker)
  await database.run((db) => applyFlush(db, replica, flush)) // this response is lost
  t.strictSame(await database.run((db) => applyFlush(db, replica, flush)), {
    result: 'duplicate',
    newPeriod: true,
    duplicates: 0,
  })
  tracker.settle(flush, true)
  tracker.track('w', 'o', 1, 0)
  const update = nextFlush(tracker)
  await database.run((db) => applyFlush(db, replica, update))
  t.strictSame(
    await database.run((db) => applyFlush(db, replica, update)),
    { result: 'duplicate', newPeriod: false, duplicates: 0 },
    'it reports what the first attempt did',
  )
  const [row] = await sql`select allowed_requests, denied_requests from boundary_usage_stats`
  t.strictSame({ ...row }, { allowed_requests: '4', denied_requests: '4' })
})

t.test('a lost response whose row a snapshot deleted counts once', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = fresh()
  const tracker = newTracker()
  tracker.track('w', 'o', 3, 4)
  const flush = nextFlush(tracker)
  await database.run((db) => applyFlush(db, replica, flush))
  await database.run((db) => takeSnapshot(db, { trigger: 'manual', reportedBy: replica.replicaId }))
  t.strictSame(await database.run((db) => applyFlush(db, replica, flush)), {
    result: 'duplicate',
    newPeriod: false,
    duplicates: 0,
  })
  t.strictSame([...(await sql`select * from boundary_usage_stats`)], [])
  const [snapshot] = await sql`select allowed_requests, denied_requests from telemetry_snapshots`
  t.strictSame({ ...snapshot }, { allowed_requests: '3', denied_requests: '4' })
})

t.test('two attempts of one flush at the same moment count once', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = fresh()
  const tracker = newTracker()
  tracker.track('w', 'o', 5, 0)
  const flush = nextFlush(tracker)
  const outcomes = await Promise.all(
    Array.from({ length: 4 }, () => database.run((db) => applyFlush(db, replica, flush))),
  )
  t.strictSame(outcomes.map((outcome) => outcome.result).sort(), [
    'applied',
    'duplicate',
    'duplicate',
    'duplicate',
  ])
  const [row] = await sql`select allowed_requests from boundary_usage_stats`
  t.equal(row?.allowed_requests, '5')
})

t.test("a flush that meets a snapshot's uncommitted delete opens a new period", async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = fresh()
  const tracker = newTracker()
  tracker.track('old', 'old', 1, 1)
  const first = nextFlush(tracker)
  await database.run((db) => applyFlush(db, replica, first))
  tracker.settle(first, true)

  tracker.track('new', 'new', 10, 10)
  const second = nextFlush(tracker)
  let flushing: ReturnType<typeof applyFlush> | undefined
  await sql.begin(async (tx) => {
    await tx`delete from boundary_usage_stats`
    flushing = database.run((db) => applyFlush(db, replica, second))
    await untilBlocked(sql)
  })
  t.strictSame(await flushing, { result: 'applied', newPeriod: true, duplicates: 0, storedRuns: {} })
  const [row] =
    await sql`select unique_workspaces_count, allowed_requests, first_flush_seq from boundary_usage_stats`
  t.strictSame({ ...row }, { unique_workspaces_count: '1', allowed_requests: '10', first_flush_seq: '2' })
})

t.test(
  'a flush registers an unregistered replica, and registering it afterwards changes nothing',
  async (t) => {
    const { database, sql } = await testDatabase(t)
    const replica = fresh()
    const tracker = newTracker()
    tracker.track('w', 'o', 1, 0)
    const flush = nextFlush(tracker)
    await database.run((db) => applyFlush(db, replica, flush))
    await database.run((db) => beat(db, replica))
    const rows = await sql`select replica_id, last_flush_seq from boundary_usage_replicas`
    t.strictSame(
      rows.map((row) => ({ ...row })),
      [{ replica_id: replica.replicaId, last_flush_seq: '1' }],
    )
  },
)

t.test('a flush without new ids adds to the counters and keeps the sketches', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = fresh()
  const tracker = newTracker()
  const sketches = async () =>
    (await sql`select workspaces_sketch, users_sketch from boundary_usage_stats`)[0]
  for (let n = 1; n <= 3; n++) {
    tracker.track('w', 'o', n, 0)
    const before = await sketches()
    const flush = nextFlush(tracker)
    t.equal(flush.hasNewIds, n === 1)
    const outcome = await database.run((db) => applyFlush(db, replica, flush))
    t.strictSame(outcome, { result: 'applied', newPeriod: n === 1, duplicates: 0, storedRuns: {} })
    tracker.settle(flush, outcome.newPeriod)
    if (n > 1) t.strictSame(await sketches(), before)
  }
  const [row] = await sql`select allowed_requests::int as allowed, unique_users_count::int as users,
    first_flush_seq::int as first from boundary_usage_stats`
  t.strictSame({ ...row }, { allowed: 6, users: 1, first: 1 })
})

t.test('ids of the previous period set their bits again in the next', async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = fresh()
  const tracker = newTracker()
  const bits = async () =>
    (
      await sql`select bit_count(workspaces_sketch)::int + bit_count(users_sketch)::int as n
      from boundary_usage_stats`
    )[0]?.n
  const flushNext = async () => {
    const flush = nextFlush(tracker)
    const outcome = await database.run((db) => applyFlush(db, replica, flush))
    tracker.settle(flush, outcome.newPeriod)
    return outcome
  }
  tracker.track('w', 'o', 1, 0)
  await flushNext()
  await database.run((db) => takeSnapshot(db, { trigger: 'manual', reportedBy: replica.replicaId }))
  tracker.track('w', 'o', 1, 0)
  t.strictSame(await flushNext(), { result: 'applied', newPeriod: true, duplicates: 0, storedRuns: {} })
  t.equal(await bits(), 2)
  tracker.track('w', 'o', 1, 0)
  t.strictSame(await flushNext(), { result: 'applied', newPeriod: false, duplicates: 0, storedRuns: {} })
  t.equal(await bits(), 2)
})

for (const form of ['lean', 'full'] as const) {
  t.test(`the ${form} form: concurrent attempts, and one after a lost response, count once`, async (t) => {
    const { database, sql } = await testDatabase(t)
    const replica = fresh()
    const tracker = newTracker()
    tracker.track('w', 'o', 1, 1)
    const first = nextFlush(tracker)
    tracker.settle(first, (await database.run((db) => applyFlush(db, replica, first))).newPeriod)
    for (let n = 0; n < 20; n++) {
      tracker.track(form === 'lean' ? 'w' : `w${n}`, 'o', 1, 1)
      const flush = nextFlush(tracker)
      t.equal(flush.hasNewIds, form === 'full')
      const attempts = await Promise.all(
        [1, 2, 3].map(() => database.run((db) => applyFlush(db, replica, flush))),
      )
      t.strictSame(attempts.map(({ result }) => result).sort(), ['applied', 'duplicate', 'duplicate'])
      t.equal((await database.run((db) => applyFlush(db, replica, flush))).result, 'duplicate')
      tracker.settle(flush, false)
    }
    const [row] = await sql`select allowed_requests::int as allowed from boundary_usage_stats`
    t.equal(row?.allowed, 21)
  })
}

t.test("a lean flush that meets a snapshot's uncommitted delete opens a new period", async (t) => {
  const { database, sql } = await testDatabase(t)
  const replica = fresh()
  const tracker = newTracker()
  tracker.track('w', 'o', 1, 0)
  const first = nextFlush(tracker)
  tracker.settle(first, (await database.run((db) => applyFlush(db, replica, first))).newPeriod)
  tracker.track('w', 'o', 5, 0)
  const flush = nextFlush(tracker)
  t.equal(flush.hasNewIds, false)
  let flushing: Promise<unknown> = Promise.resolve()
  await sql.begin(async (tx) => {
    await tx`delete from boundary_usage_stats`
    flushing = database.run((db) => applyFlush(db, replica, flush))
    await untilBlocked(sql)
  })
  t.strictSame(await flushing, { result: 'applied', newPeriod: true, duplicates: 0, storedRuns: {} })
  const [row] = await sql`select allowed_requests::int as allowed, bit_count(users_sketch)::int as bits
    from boundary_usage_stats`
  t.strictSame({ ...row }, { allowed: 5, bits: 1 })
})
