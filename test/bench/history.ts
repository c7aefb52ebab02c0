// npm run bench:history: usage from days against usage from snapshots, and what days cost. Takes names of parts.

import { randomUUID } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type SQL, sql } from 'drizzle-orm'
import { PgDialect } from 'drizzle-orm/pg-core'
import { Sketch } from '../../src/counting/sketch.js'
import {
  connectDatabase,
  type Database,
  type DatabaseTarget,
  type Db,
  type Executor,
} from '../../src/database/client.js'
import { migrate } from '../../src/database/migrate.js'
import { DAY_MS, type UsageRange } from '../../src/snapshots/calendar.js'
import { mergeIntoDays } from '../../src/snapshots/days.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { readUsage } from '../../src/snapshots/usage.js'
import { startPostgres } from '../helpers/postgres.js'
import { slowUsage } from '../helpers/slow-usage.js'
import { hash } from '../helpers/tracker.js'
import { describeMachine, interleave, median, quantile, ratio, row, runParts, tell } from './harness.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    /** postgres or embedded; both by default. */
    server: { type: 'string' },
    /** Only the history with periods of so many minutes. */
    minutes: { type: 'string' },
    rounds: { type: 'string', default: '7' },
    out: { type: 'string', default: '.bench/history.json' },
  },
})
const ROUNDS = Number(values.rounds)
const GOAL = 10
const SNAPSHOT_GOAL = 1.3
const TO = new Date('2026-11-01T00:00:00Z')
/** Ids in each snapshot, and in the distinct sketches that the history repeats, each of which brings a few new ones. */
const IDS = 1_000
const SKETCHES = 100
const HISTORIES = [
  { minutes: 30, days: 400 },
  { minutes: 5, days: 91 },
].filter(({ minutes }) => values.minutes === undefined || Number(values.minutes) === minutes)
const dialect = new PgDialect()
const results: Record<string, unknown> = { machine: describeMachine() }
console.log(describeMachine())

for (const [name, start] of Object.entries({ postgres: startServer, embedded: startInProcess })) {
  if (values.server !== undefined && values.server !== name) continue
  const { target, stop } = await start()
  const database = connectDatabase({ target, poolMax: 2 })
  const figures: Record<string, unknown> = {}
  results[name] = figures
  console.log(`\n${name}`)
  try {
    await migrate(database)
    await runParts(
      { usage: () => usage(database, figures), snapshots: () => snapshots(database, figures) },
      positionals,
    )
  } finally {
    await database.close()
    await stop()
  }
}
mkdirSync('.bench', { recursive: true })
writeFileSync(values.out, JSON.stringify(results, null, 2))
console.log(`\nwritten to ${values.out}`)

interface Running {
  target: DatabaseTarget
  stop(): Promise<void>
}

async function startServer(): Promise<Running> {
  const server = await startPostgres({ fsync: 'on', full_page_writes: 'on' })
  return { target: { url: server.url }, stop: () => server.remove() }
}

/** The embedded server runs in a worker, which needs the built file. */
async function startInProcess(): Promise<Running> {
  const built = new URL('../../dist/database/embedded.js', import.meta.url)
  const { startEmbedded }: typeof import('../../src/database/embedded.js') = await import(built.href)
  const directory = mkdtempSync(join(tmpdir(), 'boundary-usage-bench-'))
  const { socketPath, stop } = await startEmbedded(directory, () => {})
  return {
    target: { path: socketPath },
    async stop() {
      await stop()
      rmSync(directory, { recursive: true })
    },
  }
}

/** The same usage, from days and from snapshots, side by side. */
async function usage(database: Database, figures: Record<string, unknown>): Promise<void> {
  row('', 'snapshots', 'from those', 'from days', 'ratio', '', 'goal')
  for (const { minutes, days } of HISTORIES) {
    await database.run((db) => db.execute(sql`truncate telemetry_snapshots, telemetry_days`))
    await record(database, minutes, days)
    const steps = await mergeAll(database)
    const ranges: Record<string, UsageRange> = { 'quarter by day': rangeOf(91, 'day') }
    if (days >= 400) ranges['400 days by month'] = rangeOf(400, 'month')
    for (const [what, range] of Object.entries(ranges)) {
      const slow = () => timed(database, (db) => withoutLimit(db, (tx) => slowUsage(tx, range)))
      const fast = () => timed(database, (db) => readUsage(db, range))
      await fast() // reads what the load has left on the disk
      const { snapshots: slowMs = [], days: daysMs = [] } = await interleave(ROUNDS, {
        snapshots: slow,
        days: fast,
      })
      const times = ratio(slowMs, daysMs)
      const name = `${what}, ${minutes} min`
      figures[name] = { snapshotsMs: median(slowMs), daysMs: median(daysMs), times }
      row(
        name,
        String((range.to.getTime() - range.from.getTime()) / (minutes * 60_000)),
        `${median(slowMs).toFixed(0)} ms`,
        `${median(daysMs).toFixed(0)} ms`,
        times.text,
        '',
        `${GOAL}: ${times.low >= GOAL ? 'met' : 'missed'}`,
      )
    }
    figures[`merge of ${minutes} min`] = {
      median: median(steps),
      longest: quantile(steps, 1),
      steps: steps.length,
    }
    console.log(
      `merged into days in ${steps.length} steps of ${median(steps).toFixed(1)} ms, the longest ${quantile(steps, 1).toFixed(1)} ms`,
    )
  }
  const [size] = await database.run((db) =>
    db.execute<{ days: number; bytes: number }>(sql`
      select count(*)::int as days, pg_total_relation_size('telemetry_days')::float8 as bytes from telemetry_days`),
  )
  figures.size = size
  console.log(`telemetry_days: ${size?.days} rows, ${((size?.bytes ?? 0) / 2 ** 20).toFixed(1)} MB`)
}

function rangeOf(days: number, by: UsageRange['by']): UsageRange {
  return { from: new Date(TO.getTime() - days * DAY_MS), to: TO, by }
}

/** Records snapshots of this length for so many days up to TO. */
async function record(database: Database, minutes: number, days: number): Promise<void> {
  await database.run(
    async (db) => {
      await db.execute(sql`create table if not exists sketches (n int primary key, bits bit(196608))`)
      await db.execute(sql`truncate sketches`)
      for (let n = 0; n < SKETCHES; n++) {
        const sketch = new Sketch()
        for (let id = 0; id < IDS; id++) sketch.add(hash(`id-${n * 20 + id}`))
        await db.execute(
          sql`insert into sketches values (${n}, ${sketch.toBitString()}::varbit::bit(196608))`,
        )
      }
    },
    { deadlineMs: 60_000 },
  )
  const first = TO.getTime() - days * DAY_MS
  for (let day = 0; day < days; day++) {
    tell(`recording day ${day + 1} of ${days}, ${minutes} min`)
    await database.run((db) =>
      db.execute(sql`
        insert into telemetry_snapshots (id, trigger, reported_by, replicas, period_start, period_end, taken_at,
          unique_workspaces, unique_users, unique_workspaces_summed, unique_users_summed, allowed_requests,
          denied_requests, workspaces_sketch, users_sketch)
        select gen_random_uuid(), 'schedule', ${randomUUID()}::uuid, 3, period_end - length, period_end, period_end,
          ${IDS}, ${IDS}, ${IDS}, ${IDS}, 1000, 10, bits, bits
        from (
          select to_timestamp(${(first + day * DAY_MS) / 1000}) + i * length as period_end, length, bits
          from (select ${minutes} * interval '1 minute' as length) as one,
            generate_series(1, ${1440 / minutes}::int) as i
            join sketches on n = (${Math.floor((day / days) * (SKETCHES - 10))}::int + i % 10)
        ) as periods`),
    )
  }
  tell('')
  await database.run((db) => db.execute(sql`analyze`), { deadlineMs: 60_000 })
}

/** The times of the steps that merge the whole history. */
async function mergeAll(database: Database): Promise<number[]> {
  const steps: number[] = []
  for (;;) {
    const start = performance.now()
    if ((await database.run((db) => mergeIntoDays(db))) === 0) return steps
    steps.push(performance.now() - start)
    tell(`merging step ${steps.length}`)
  }
}

/** A snapshot, with and without the statement that merges it into its day. */
async function snapshots(database: Database, figures: Record<string, unknown>): Promise<void> {
  let first = 0
  /** Each snapshot has a few ids that its day has not. */
  const nextBits = () => {
    first += 20
    const sketch = new Sketch()
    for (let n = first; n < first + IDS; n++) sketch.add(hash(`id-${n}`))
    return sketch.toBitString()
  }
  row('a snapshot of', 'without day', 'with day', 'ratio', '', 'goal')
  for (const replicas of [1, 10, 100]) {
    const take = (prepare: (db: Db) => Db) => async () => {
      const bits = nextBits()
      await database.run((db) =>
        db.execute(sql`insert into boundary_usage_stats (replica_id,
          unique_workspaces_count, unique_users_count, allowed_requests, denied_requests, first_flush_seq,
          window_start, updated_at, workspaces_sketch, users_sketch)
          select gen_random_uuid(), ${IDS}, ${IDS}, 5000, 500, 1, now(), now(),
            ${bits}::varbit::bit(196608), ${bits}::varbit::bit(196608) from generate_series(1, ${replicas}::int)`),
      )
      return timed(database, (db) =>
        takeSnapshot(prepare(db), { trigger: 'manual', reportedBy: randomUUID() }),
      )
    }
    const { without = [], with: withDay = [] } = await interleave(ROUNDS * 10, {
      without: take(withoutDays),
      with: take((db) => db),
    })
    const times = ratio(withDay, without)
    figures[`a snapshot of ${replicas}`] = { withoutMs: median(without), withMs: median(withDay), times }
    row(
      `${replicas} replicas`,
      `${median(without).toFixed(1)} ms`,
      `${median(withDay).toFixed(1)} ms`,
      times.text,
      '',
      `${SNAPSHOT_GOAL}: ${times.high <= SNAPSHOT_GOAL ? 'met' : 'missed'}`,
    )
  }
}

function mergesDays(query: SQL): boolean {
  return dialect.sqlToQuery(query).sql.includes('telemetry_days')
}

/** Leaves out what a transaction does for days: with this, a snapshot is what it was before there were any. */
function withoutDays(db: Db): Db {
  const skipping = <T extends object>(executor: T & Pick<Db, 'execute'>): T =>
    new Proxy(executor, {
      get: (target, name) =>
        name === 'execute'
          ? (query: SQL) => (mergesDays(query) ? Promise.resolve([]) : target.execute(query))
          : Reflect.get(target, name),
    })
  const transaction: Db['transaction'] = (work, config) => db.transaction((tx) => work(skipping(tx)), config)
  return new Proxy(db, {
    get: (target, name) => (name === 'transaction' ? transaction : Reflect.get(target, name)),
  })
}

/** Runs `work` with no limit on a statement: from snapshots, a long range takes longer than the service allows. */
function withoutLimit<T>(db: Db, work: (tx: Executor) => Promise<T>): Promise<T> {
  return db.transaction(async (tx) => {
    await tx.execute(sql`set local statement_timeout = 0`)
    return work(tx)
  })
}

async function timed(database: Database, work: (db: Db) => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await database.run(work, { deadlineMs: 120_000 })
  return performance.now() - start
}
