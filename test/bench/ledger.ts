// npm run bench:ledger: what sessions cost the database and a replica. Takes names of parts.

import { randomUUID } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import postgres from 'postgres'
import { applyFlush } from '../../src/counting/flush.js'
import { sessionHash } from '../../src/counting/sessions.js'
import { sketchHash } from '../../src/counting/sketch.js'
import { Tracker } from '../../src/counting/tracker.js'
import { connectDatabase } from '../../src/database/client.js'
import { migrate } from '../../src/database/migrate.js'
import { ALLOWED, DENIED } from '../../src/ingest/runs.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { startPostgres } from '../helpers/postgres.js'
import { describeMachine, median, ratio, row, runParts } from './harness.js'

const key = Buffer.alloc(32, 3)
const hashes = [sketchHash(key), sessionHash(key)] as const
const ROUNDS = 15
console.log(describeMachine())
const server = await startPostgres({ fsync: 'on', full_page_writes: 'on' })
const database = connectDatabase({ target: { url: server.url }, poolMax: 2 })
const sql = postgres(server.url, { max: 1, onnotice: () => {} })
try {
  await migrate(database)
  await runParts({ flush, duplicates, runs, holes, rows, memory }, process.argv.slice(2))
} finally {
  await sql.end()
  await database.close()
  await server.remove()
}

function newReplica() {
  const tracker = new Tracker(100_000)
  tracker.useHash(...hashes)
  const replica = { replicaId: randomUUID(), name: 'bench', version: '0' }
  return {
    tracker,
    /** Milliseconds that a flush takes. */
    async flush(): Promise<number> {
      const next = tracker.nextFlush()
      if (!next) throw new Error('nothing to flush')
      const start = performance.now()
      const { newPeriod } = await database.run((db) => applyFlush(db, replica, next), { deadlineMs: 60_000 })
      tracker.settle(next, newPeriod)
      return performance.now() - start
    },
  }
}

type Replica = ReturnType<typeof newReplica>

/** 60 logs of each session, every tenth of them denied, in batches of ten. */
function track({ tracker }: Replica, sessions: string[], from: number): void {
  for (const id of sessions)
    for (let first = from; first < from + 60; first += 10)
      tracker.track('w', 'u', 9, 1, {
        id,
        numbers: [first, first + 9, ALLOWED, first + 9, first + 10, DENIED],
      })
}

function newSessions(count: number): string[] {
  return Array.from({ length: count }, () => randomUUID())
}

function ms(values: number[]): string {
  return `${median(values).toFixed(1)} ms`
}

async function flush(): Promise<void> {
  console.log('\nA flush of 1,000 sessions of 60 logs, and of the same logs without sessions, in turns')
  const [plain, withSessions] = [newReplica(), newReplica()]
  const sessions = newSessions(1_000)
  const times = { plain: [] as number[], new: [] as number[], next: [] as number[], again: [] as number[] }
  for (let round = 0; round < ROUNDS; round++) {
    plain.tracker.track('w', 'u', 54_000, 6_000)
    times.plain.push(await plain.flush())
    track(withSessions, newSessions(1_000), 0)
    times.new.push(await withSessions.flush())
    track(withSessions, sessions, round * 60)
    times.next.push(await withSessions.flush())
    track(withSessions, sessions, round * 60)
    times.again.push(await withSessions.flush())
  }
  row('', 'median', 'minus 1.5 times plain')
  for (const [name, values] of Object.entries(times))
    row(name, ms(values), `${(median(values) - 1.5 * median(times.plain)).toFixed(1)} ms`)
  console.log('goal: at most 40 ms more than 1.5 times plain')
}

async function duplicates(): Promise<void> {
  console.log(
    '\nA flush in which every log is a duplicate, by sessions, of 60 logs each, in one run or in twelve',
  )
  for (const count of [1_000, 10_000, 20_000]) {
    const replica = newReplica()
    const [one, twelve] = [newSessions(count), newSessions(count)]
    const trackOne = () => {
      for (const id of one) replica.tracker.track('w', 'u', 60, 0, { id, numbers: [0, 60, ALLOWED] })
    }
    trackOne()
    await replica.flush()
    track(replica, twelve, 0)
    await replica.flush()
    const times = { one: [] as number[], twelve: [] as number[] }
    for (let round = 0; round < 5; round++) {
      trackOne()
      times.one.push(await replica.flush())
      track(replica, twelve, 0)
      times.twelve.push(await replica.flush())
    }
    row(`${count} sessions`, ms(times.one), ms(times.twelve))
  }
}

/** The most that a replica lets into one flush: 100,000 runs. */
async function runs(): Promise<void> {
  console.log('\nA flush of 100,000 runs in which every log is a duplicate, by runs of a session')
  for (const perSession of [1, 10, 100, 1_000]) {
    const replica = newReplica()
    const sessions = newSessions(100_000 / perSession)
    const numbers = Array.from({ length: perSession }, (_, n) => [2 * n, 2 * n + 1, ALLOWED]).flat()
    const times: number[] = []
    for (let round = 0; round < 4; round++) {
      for (const id of sessions) replica.tracker.track('w', 'u', perSession, 0, { id, numbers })
      const time = await replica.flush()
      if (round > 0) times.push(time)
    }
    row(`${perSession} runs`, ms(times))
  }
  await sql`truncate boundary_usage_sessions`
}

/** The most expensive rows: each flush reads and writes all their runs for one number. */
async function holes(): Promise<void> {
  console.log('\nA flush of one number of each of 20 sessions with 5,000 holes')
  const replica = newReplica()
  const sessions = newSessions(20)
  const numbers = Array.from({ length: 5_000 }, (_, n) => [2 * n, 2 * n + 1, ALLOWED]).flat()
  const flushOf = (numbers: number[]) => {
    for (const id of sessions) replica.tracker.track('w', 'u', 1, 0, { id, numbers })
    return replica.flush()
  }
  await flushOf(numbers)
  const times = { above: [] as number[], between: [] as number[], again: [] as number[] }
  for (let round = 0; round < ROUNDS; round++) {
    const next = 10_000 + 2 * round
    times.above.push(await flushOf([next, next + 1, ALLOWED]))
    times.between.push(await flushOf([next - 5_001, next - 5_000, ALLOWED]))
    times.again.push(await flushOf([next - 5_001, next - 5_000, ALLOWED]))
  }
  for (const [name, values] of Object.entries(times))
    row(name, ms(values), `${(median(values) / sessions.length).toFixed(1)} ms a session`)
}

async function rows(): Promise<void> {
  console.log('\nA flush of 1,000 sessions and a snapshot, without and with 1,000,000 rows in the ledger')
  const replica = newReplica()
  const sessions = newSessions(1_000)
  let next = 0
  const measure = async () => {
    const times = { flush: [] as number[], snapshot: [] as number[] }
    for (let round = 0; round < ROUNDS; round++) {
      track(replica, sessions, next)
      next += 60
      times.flush.push(await replica.flush())
      const start = performance.now()
      const request = { trigger: 'manual', reportedBy: randomUUID() } as const
      await database.run((db) => takeSnapshot(db, request), { deadlineMs: 60_000 })
      times.snapshot.push(performance.now() - start)
    }
    return times
  }
  const without = await measure()
  await sql`insert into boundary_usage_sessions (session_key, received, has_new_holes, last_seen_at)
    select gen_random_uuid(), '{[0,60)}', false, now() - random() * interval '30 days'
    from generate_series(1, 1000000)`
  await sql`vacuum analyze boundary_usage_sessions`
  const withRows = await measure()
  row('', 'without', 'with', 'ratio')
  for (const part of ['flush', 'snapshot'] as const)
    row(part, ms(without[part]), ms(withRows[part]), ratio(withRows[part], without[part]).text)
  const [size] = await sql`
    select pg_total_relation_size('boundary_usage_sessions') / count(*) as bytes from boundary_usage_sessions`
  console.log(`${size?.bytes} bytes a row, with its indexes`)
  await sql`truncate boundary_usage_sessions`
}

async function memory(): Promise<void> {
  console.log('\nHeap of a tracker, by sessions since the last flush, of 60 logs each')
  const heap = () => {
    globalThis.gc?.()
    return process.memoryUsage().heapUsed / 2 ** 20
  }
  for (const [runsEach, count] of [
    [1, 100_000],
    [12, 8_000],
  ] as const) {
    const replica = newReplica()
    const before = heap()
    for (const id of newSessions(count))
      for (let n = 0; n < runsEach; n++) {
        const numbers = [n * 5, n * 5 + 5, n % 2 === 0 ? ALLOWED : DENIED]
        replica.tracker.track('w', 'u', 5, 0, { id, numbers })
      }
    const grown = heap() - before
    const isFull = replica.tracker.isFullOfSessions
    row(`${count} sessions`, `${runsEach} runs each`, `${grown.toFixed(0)} MiB`, isFull ? 'full' : 'not full')
  }
}
