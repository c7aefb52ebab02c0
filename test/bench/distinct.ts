// npm run bench:distinct: distinct counts against the truth, and what sketches cost in the database. Takes names of parts.

import { randomUUID } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import { sql as dsql } from 'drizzle-orm'
import postgres from 'postgres'
import { applyFlush } from '../../src/counting/flush.js'
import { sessionHash } from '../../src/counting/sessions.js'
import { Sketch, sketchHash } from '../../src/counting/sketch.js'
import { Tracker } from '../../src/counting/tracker.js'
import { connectDatabase, type Db } from '../../src/database/client.js'
import { migrate } from '../../src/database/migrate.js'
import { UNITS } from '../../src/snapshots/calendar.js'
import { previewSnapshot, takeSnapshot } from '../../src/snapshots/snapshot.js'
import { readUsage } from '../../src/snapshots/usage.js'
import { startPostgres } from '../helpers/postgres.js'
import { median, ratio, runParts } from './harness.js'

const key = Buffer.alloc(32, 3)
const hash = sketchHash(key)
const keyOf = sessionHash(key)
const server = await startPostgres({ fsync: 'on', full_page_writes: 'on' })
const database = connectDatabase({ target: { url: server.url }, poolMax: 2 })
const sql = postgres(server.url, { max: 1, onnotice: () => {} })
try {
  await migrate(database)
  await runParts({ estimates, flushes, snapshots, history, memory }, process.argv.slice(2))
} finally {
  await sql.end()
  await database.close()
  await server.remove()
}

function newTracker(limit = 100_000): Tracker {
  const tracker = new Tracker(limit)
  tracker.useHash(hash, keyOf)
  return tracker
}

async function flush(tracker: Tracker, replicaId: string): Promise<void> {
  const batch = tracker.nextFlush()
  if (!batch) return
  const replica = { replicaId, name: 'bench', version: '0' }
  tracker.settle(batch, (await database.run((db) => applyFlush(db, replica, batch))).newPeriod)
}

async function timed(runs: number, work: () => Promise<unknown>): Promise<string> {
  const times: number[] = []
  for (let n = 0; n < runs; n++) {
    const start = performance.now()
    await work()
    times.push(performance.now() - start)
  }
  times.sort((a, b) => a - b)
  const at = (share: number) => (times[Math.floor(share * (times.length - 1))] ?? 0).toFixed(1)
  return `${at(0.5)} ms (${at(0)} to ${at(1)}, ${runs} runs)`
}

/** Users spread over replicas so that each is seen by two of them. */
async function estimates(): Promise<void> {
  console.log('\nDistinct users, each seen by two replicas: estimate and error')
  for (const truth of [10, 100, 1_000, 10_000, 100_000, 1_000_000]) {
    const row = [String(truth).padStart(9)]
    for (const replicas of [2, 10, 100]) {
      const trackers = Array.from({ length: replicas }, () => newTracker())
      for (let user = 0; user < truth; user++)
        for (const seen of [user, user + 1 + (Math.floor(user / replicas) % (replicas - 1))])
          trackers[seen % replicas]?.track('one workspace', `${truth}-user-${user}`, 1, 0)
      for (const tracker of trackers) await flush(tracker, randomUUID())
      const outcome = await database.run((db) =>
        takeSnapshot(db, { trigger: 'manual', reportedBy: randomUUID() }),
      )
      if (outcome.result !== 'taken') throw new Error(outcome.result)
      const { unique_users: found } = outcome.snapshot
      const error = ((found / truth - 1) * 100).toFixed(2)
      row.push(`${replicas} replicas: ${String(found).padStart(8)} (${error} %)`)
    }
    console.log(row.join('   '))
  }
}

async function flushes(): Promise<void> {
  console.log('\nA flush: time, and bytes sent for one')
  for (const ids of [10, 1_000, 100_000]) {
    const tracker = newTracker()
    const replicaId = randomUUID()
    let next = 0
    for (; next < ids; next++) tracker.track(`w${next}`, `u${next}`, 1, 0)
    const bytes = sketchBytes(tracker)
    await flush(tracker, replicaId)
    const withNew = await timed(50, () => {
      next++
      tracker.track(`w${next}`, `u${next}`, 1, 0)
      return flush(tracker, replicaId)
    })
    console.log(
      `${String(ids).padStart(7)} ids: first flush ${bytes} bytes of sketches; one more new id ${withNew}`,
    )
    const lean: number[] = []
    const plain: number[] = []
    const update = dsql`update boundary_usage_stats
      set allowed_requests = allowed_requests + 1, updated_at = now() where replica_id = ${replicaId}`
    for (let round = 0; round < 200; round++) {
      plain.push(await time((db) => db.execute(update)))
      tracker.track('w0', 'u0', 1, 0)
      const start = performance.now()
      await flush(tracker, replicaId)
      lean.push(performance.now() - start)
    }
    console.log(
      `        no new id ${median(lean).toFixed(1)} ms, a plain UPDATE ${median(plain).toFixed(1)} ms, ` +
        `side by side ${ratio(lean, plain).text} times`,
    )
  }
  await sql`truncate boundary_usage_stats`
}

function sketchBytes(tracker: Tracker): number {
  const batch = tracker.nextFlush()
  return (
    (batch?.workspaces.toSketch().toBitString().length ?? 0) +
    (batch?.users.toSketch().toBitString().length ?? 0)
  )
}

async function snapshots(): Promise<void> {
  console.log('\nA snapshot, by rows (1,000 users and workspaces in each)')
  const sketch = new Sketch()
  for (let n = 0; n < 1_000; n++) sketch.add(hash(`u${n}`))
  const bits = sketch.toBitString()
  for (const rows of [1, 100, 1_000, 10_000]) {
    const fill = () => sql`insert into boundary_usage_stats (replica_id,
        unique_workspaces_count, unique_users_count, allowed_requests, denied_requests, first_flush_seq,
        window_start, updated_at, workspaces_sketch, users_sketch)
      select gen_random_uuid(), 1000, 1000, 5000, 500, 1, now(), now(),
        ${bits}::varbit::bit(196608), ${bits}::varbit::bit(196608) from generate_series(1, ${rows}::int)`
    const previewed: number[] = []
    const taken: number[] = []
    for (let run = 0; run < (rows > 1_000 ? 3 : 10); run++) {
      await fill()
      taken.push(await time((db) => takeSnapshot(db, { trigger: 'manual', reportedBy: randomUUID() })))
    }
    await fill()
    for (let run = 0; run < 3; run++)
      previewed.push(await time((db) => previewSnapshot(db, { reportedBy: randomUUID() })))
    await sql`truncate boundary_usage_stats`
    console.log(
      `${String(rows).padStart(6)} rows: snapshot ${median(taken).toFixed(0)} ms, preview ${median(previewed).toFixed(0)} ms`,
    )
  }
}

async function time(work: (db: Db) => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await database.run(work)
  return performance.now() - start
}

async function history(): Promise<void> {
  await sql`truncate telemetry_snapshots`
  console.log('\nHistory: a month of snapshots, one every 30 minutes (1,440), 10,000 users in each')
  const to = new Date('2026-07-01T00:00:00Z')
  const from = new Date('2026-06-01T00:00:00Z')
  for (let n = 1; n <= 1_440; n++) {
    const sketch = new Sketch()
    for (let user = 0; user < 10_000; user++) sketch.add(hash(`u${user + n * 10}`))
    const end = new Date(from.getTime() + n * 1_800_000)
    const bits = sketch.toBitString()
    await sql`insert into telemetry_snapshots (id, trigger, reported_by, replicas, period_start, period_end, taken_at,
      unique_workspaces, unique_users, unique_workspaces_summed, unique_users_summed, allowed_requests,
      denied_requests, workspaces_sketch, users_sketch)
      values (gen_random_uuid(), 'schedule', gen_random_uuid(), 3, ${new Date(end.getTime() - 1_800_000)}, ${end}, ${end},
      10000, 10000, 10000, 10000, 1000, 10, ${bits}::varbit::bit(196608), ${bits}::varbit::bit(196608))`
  }
  for (const by of UNITS) {
    const taken = await timed(3, () => database.run((db) => readUsage(db, { from, to, by })))
    const { total, buckets } = await database.run((db) => readUsage(db, { from, to, by }))
    console.log(
      `by ${by.padEnd(5)}: ${taken}, ${buckets.length} buckets, ${total.unique_users} users in all (truth: 24,390)`,
    )
  }
  const [size] = await sql`select pg_size_pretty(pg_total_relation_size('telemetry_snapshots')) as size`
  console.log(`size of telemetry_snapshots: ${size?.size}`)
}

/** Ten million distinct ids through one tracker. */
function memory(): void {
  console.log('\nTen million distinct users through one replica')
  const tracker = newTracker()
  const start = performance.now()
  for (let n = 1; n <= 10_000_000; n++) {
    tracker.track('one workspace', `user-${n}`, 1, 0)
    if ([100_000, 200_000, 1_000_000, 10_000_000].includes(n)) {
      const { users } = tracker.tracked
      const rss = (process.memoryUsage.rss() / 2 ** 20).toFixed(0)
      console.log(
        `${String(n).padStart(9)} ids: counted ${users} (${((users / n - 1) * 100).toFixed(2)} %), RSS ${rss} MB`,
      )
    }
  }
  console.log(`${((performance.now() - start) / 10_000).toFixed(2)} microseconds an id`)
}
