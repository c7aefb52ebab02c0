// Distinct counts over replicas, against the truth; and rows of a version that had no sketches.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { applyFlush } from '../../src/counting/flush.js'
import { RANKS } from '../../src/counting/sketch.js'
import type { Database } from '../../src/database/client.js'
import { distinctCount, type Merged } from '../../src/snapshots/merge.js'
import { previewSnapshot, takeSnapshot } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { newTracker } from '../helpers/tracker.js'

/** A replica that has seen these users, each in a workspace of the same name, and flushes. */
async function flush(database: Database, users: Iterable<string>): Promise<void> {
  const tracker = newTracker()
  for (const user of users) tracker.track(user, user, 1, 0)
  const batch = tracker.nextFlush()
  if (!batch) throw new Error('nothing to flush')
  await database.run((db) =>
    applyFlush(db, { replicaId: randomUUID(), name: 'test', version: '0.0.0' }, batch),
  )
}

const manual = { trigger: 'manual', reportedBy: randomUUID() } as const
const ids = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => `user-${from + n}`)

t.test('ids that reach several replicas count once, in preview, snapshot and history', async (t) => {
  const { database, sql } = await testDatabase(t)
  // Each replica sees half of what the one before saw.
  for (const from of [0, 500, 1_000, 1_500]) await flush(database, ids(from, from + 1_000))
  const preview = await database.run((db) => previewSnapshot(db, { reportedBy: randomUUID() }))
  const outcome = await database.run((db) => takeSnapshot(db, manual))
  if (outcome.result !== 'taken') throw new Error(outcome.result)
  const [row] = await sql`select unique_workspaces::int, unique_users::int, unique_users_summed::int,
    bit_count(users_sketch)::int as bits from telemetry_snapshots`
  for (const { unique_workspaces, unique_users, unique_users_summed } of [
    preview,
    outcome.snapshot,
    row ?? {},
  ]) {
    t.ok(Math.abs(Number(unique_users) / 2_500 - 1) < 0.03, `${unique_users} of 2500`)
    t.equal(unique_workspaces, unique_users)
    t.equal(unique_users_summed, 4_000)
  }
  t.ok(row?.bits > 2_000, 'the merged sketch is kept')
})

t.test('with one replica the count is exact; with the same users on all replicas too', async (t) => {
  const { database } = await testDatabase(t)
  await flush(database, ids(0, 12_345))
  t.equal(
    (await database.run((db) => previewSnapshot(db, { reportedBy: randomUUID() }))).unique_users,
    12_345,
  )
  for (let n = 0; n < 3; n++) await flush(database, ids(0, 100))
  const preview = await database.run((db) => previewSnapshot(db, { reportedBy: randomUUID() }))
  t.ok(preview.unique_users >= 12_345, 'never less than one replica has seen')
  t.ok(preview.unique_users <= 12_645, 'never more than all have seen together')
})

t.test('rows without sketches count with their own numbers', async (t) => {
  const { database, sql } = await testDatabase(t)
  await flush(database, ids(0, 10))
  await flush(database, ids(5, 15))
  await sql`insert into boundary_usage_stats (replica_id, unique_workspaces_count, unique_users_count,
    allowed_requests, denied_requests, first_flush_seq, window_start, updated_at)
    values (gen_random_uuid(), 3, 7, 1, 1, 1, now(), now())`
  const { unique_users, unique_users_summed } = await database.run((db) =>
    previewSnapshot(db, { reportedBy: randomUUID() }),
  )
  t.ok(Math.abs(unique_users - 22) <= 1, String(unique_users))
  t.equal(unique_users_summed, 27)
})

t.test('merging no rows gives zero', async (t) => {
  const { database } = await testDatabase(t)
  const outcome = await database.run((db) => takeSnapshot(db, manual))
  t.hasStrict(outcome, {
    snapshot: { unique_users: 0, unique_workspaces: 0, unique_users_summed: 0, replicas: 0 },
  })
})

t.test('an estimate is clamped between the largest count and the sum', async (t) => {
  const sums = (set: number) => Array.from({ length: RANKS }, (_, rank) => (rank === 0 ? set : 0))
  const merged = (fields: Partial<Merged>) => ({
    column_sums: sums(4),
    largest: 0,
    summed: 1_000,
    unsketched: 0,
    ...fields,
  })
  t.equal(distinctCount(merged({ largest: 50, summed: 60 })), 50)
  t.equal(distinctCount(merged({ largest: 1, summed: 2 })), 2)
  t.equal(distinctCount(merged({ column_sums: null, largest: 5, summed: 9, unsketched: 9 })), 9)
})
