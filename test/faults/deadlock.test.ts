// Flushes of both forms, snapshots and retention on the same rows at the same moment never deadlock.
//
// It detects a changed lock order: with the sessions before the usage row in one form, or in the order of their arrival,
// PostgreSQL reports deadlocks within a second.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { connectDatabase, type Database } from '../../src/database/client.js'
import { pruneReplicas, pruneSessions } from '../../src/snapshots/retention.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { newReplica } from '../helpers/ledger.js'

const REPLICAS = 6
const SESSIONS = 40
const ROUNDS = 40

t.test('flushes, snapshots and retention never deadlock', async (t) => {
  const { url, sql } = await testDatabase(t)
  const database = connectDatabase({ target: { url }, poolMax: REPLICAS + 2 })
  t.teardown(() => database.close())
  const sessions = Array.from({ length: SESSIONS }, () => randomUUID())
  const sent = { logs: 0 }
  const forms = { lean: 0, full: 0 }
  let over = false

  async function flushes() {
    const replica = newReplica(database)
    for (let round = 0; round < ROUNDS; round++) {
      for (const session of sessions.toSorted(() => Math.random() - 0.5)) {
        const first = Math.floor(Math.random() * 200)
        replica.track(session, { allowed: [first, first + 5] }, round % 4 === 0 ? `o${round}` : 'o')
        sent.logs += 5
      }
      forms[(await replica.flush()).form]++
    }
  }
  /** Until the flushes are over. */
  async function again(work: (database: Database) => Promise<unknown>) {
    let times = 0
    while (!over) {
      await work(database)
      times++
    }
    return times
  }
  const others = [
    again((database) =>
      database.run((db) => takeSnapshot(db, { trigger: 'manual', reportedBy: randomUUID(), silenceMs: 0 })),
    ),
    again((database) => database.run((db) => pruneSessions(db, 0))),
    again((database) => database.run(pruneReplicas)),
  ]
  try {
    await Promise.all(Array.from({ length: REPLICAS }, flushes))
  } finally {
    over = true
  }
  const [snapshots] = await Promise.all(others)
  const [found] = await sql`
    select deadlocks::int, (select sum(logs)::int from (
      select allowed_requests + duplicate_requests as logs from boundary_usage_stats
      union all select allowed_requests + duplicate_requests from telemetry_snapshots) as everywhere) as logs
    from pg_stat_database where datname = current_database()`
  t.strictSame({ ...found }, { deadlocks: 0, logs: sent.logs })
  t.ok(
    forms.lean > 0 && forms.full > 0 && (snapshots ?? 0) >= 3,
    `${JSON.stringify(forms)}, ${snapshots} snapshots`,
  )
})
