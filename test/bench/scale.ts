// npm run bench:scale: how large a fleet one PostgreSQL carries, and what its tables grow to. Takes names of parts.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import postgres from 'postgres'
import { beat } from '../../src/counting/replica.js'
import { connectDatabase } from '../../src/database/client.js'
import { openListener } from '../../src/database/listener.js'
import { migrate } from '../../src/database/migrate.js'
import { announceCall, parseAnnouncement } from '../../src/reporting/announcements.js'
import { waitForReports } from '../../src/reporting/late.js'
import { TIMING } from '../../src/timing.js'
import { startPostgres } from '../helpers/postgres.js'
import { type Carries, flush, inParallel, type Member, newFleet, snapshot } from './fleet.js'
import { describeMachine, median, quantile, row, runParts, tell } from './harness.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    /** Fleets of so many alone. */
    replicas: { type: 'string' },
    seconds: { type: 'string', default: '5' },
    snapshots: { type: 'string', default: '5' },
    out: { type: 'string', default: '.bench/scale.json' },
  },
})
const CONNECTIONS = 8
/** Replicas spread their flushes over so much of the time after a call: as for 1,000 replicas and a grace period of 20 s. */
const SPREADS_MS = [0, 5_000]
const CALLS = 3
/** And for how many periods their tables are watched: a larger one writes more rows in each. */
const FLEETS = [
  { replicas: 1, periods: 1_000 },
  { replicas: 100, periods: 1_000 },
  { replicas: 1_000, periods: 1_000 },
  { replicas: 10_000, periods: 20 },
].filter(({ replicas }) => values.replicas === undefined || Number(values.replicas) === replicas)

console.log(`${describeMachine()}; ${CONNECTIONS} connections, fsync on`)
const server = await startPostgres({
  fsync: 'on',
  full_page_writes: 'on',
  autovacuum_naptime: '1',
  max_connections: '1100',
})
const database = connectDatabase({ target: { url: server.url }, poolMax: CONNECTIONS + 1 })
const sql = postgres(server.url, { max: 1, onnotice: () => {} })
const results: Record<string, unknown> = { machine: describeMachine() }
try {
  await migrate(database)
  await runParts({ rates, growth, calls }, positionals)
} finally {
  await sql.end()
  await database.close()
  await server.remove()
}
mkdirSync('.bench', { recursive: true })
writeFileSync(values.out, JSON.stringify(results, null, 2))
console.log(`\nwritten to ${values.out}`)

/** Flushes and snapshots, by the number of rows. */
async function rates(): Promise<void> {
  console.log(
    '\nFlushes a second, and a snapshot amid flushes, by replicas (1,000 workspaces and users in each)',
  )
  row('replicas', 'opening', 'one new id', 'counts', 'HOT', 'snapshot ms', 'flush ms', 'blocked ms')
  for (const { replicas } of FLEETS) {
    const fleet = newFleet(replicas)
    const opening = await open(fleet)
    const newId = await rate(fleet, 'new id')
    const before = await updates()
    const counts = await rate(fleet, 'counts')
    const after = await updates()
    const hot = (after.hot - before.hot) / (after.all - before.all)
    const amid = await snapshotsAmidFlushes(fleet)
    results[`${replicas} replicas`] = { opening, newId, counts, hot, ...amid }
    row(
      String(replicas),
      ...[opening, newId, counts].map((perSecond) => perSecond.toFixed(0)),
      `${(hot * 100).toFixed(0)} %`,
      ...[amid.snapshotMs, amid.flushMs, amid.blockedMs].map((ms) => ms.toFixed(0)),
    )
    await sql`truncate boundary_usage_stats, boundary_usage_replicas`
  }
}

/** Makes every replica's row; flushes a second. */
async function open(fleet: Member[]): Promise<number> {
  const start = performance.now()
  await inParallel(fleet, CONNECTIONS, (member) => flush(database, member, 'opening'))
  return fleet.length / ((performance.now() - start) / 1000)
}

async function rate(fleet: Member[], carries: Carries): Promise<number> {
  const until = performance.now() + Number(values.seconds) * 1000
  let done = 0
  const isTime = () => performance.now() < until
  await inTurns(fleet, isTime, async (member) => {
    await flush(database, member, carries)
    done++
  })
  return done / Number(values.seconds)
}

/** `work` for the replicas one after the other, round after round; a single one flushes one batch at a time. */
function inTurns(
  fleet: Member[],
  goesOn: () => boolean,
  work: (member: Member) => Promise<void>,
): Promise<void> {
  function* rounds() {
    while (goesOn()) for (const member of fleet) if (goesOn()) yield member
  }
  return inParallel(rounds(), Math.min(fleet.length, CONNECTIONS), work)
}

/** Snapshots while the fleet flushes as fast as it can: their time, and the longest that they made a flush take. */
async function snapshotsAmidFlushes(fleet: Member[]) {
  const snapshots: number[] = []
  const blocked: number[] = []
  const usual: number[] = []
  for (let run = 0; run < Number(values.snapshots); run++) {
    await open(fleet)
    let isRunning = false
    let isOver = false
    const during: number[] = []
    const goesOn = () => !isOver
    const flushing = inTurns(fleet, goesOn, async (member) => {
      const start = performance.now()
      const met = isRunning
      await flush(database, member, 'counts')
      const list = met || isRunning ? during : usual
      list.push(performance.now() - start)
    })
    await new Promise((resolve) => setTimeout(resolve, 300))
    isRunning = true
    snapshots.push(await snapshot(database))
    isRunning = false
    isOver = true
    await flushing
    blocked.push(Math.max(0, ...during))
  }
  return { snapshotMs: median(snapshots), flushMs: median(usual), blockedMs: quantile(blocked, 1) }
}

async function updates(): Promise<{ all: number; hot: number }> {
  await sql`select pg_stat_force_next_flush()`
  await new Promise((resolve) => setTimeout(resolve, 1_500)) // idle sessions report once a second
  const [found] = await sql<{ all: number; hot: number }[]>`
    select sum(n_tup_upd)::float8 as all, sum(n_tup_hot_upd)::float8 as hot
    from pg_stat_user_tables where relname like 'boundary_usage_%'`
  return found ?? { all: 0, hot: 0 }
}

/** What the tables hold on disk as period follows period: three flushes a replica, then a snapshot. */
async function growth(): Promise<void> {
  console.log(
    '\nSize of boundary_usage_stats as periods pass, autovacuum looking every second, MB with TOAST and indexes',
  )
  const shares = [0.1, 0.2, 0.4, 0.6, 0.8, 1]
  row('replicas x periods', ...shares.map((share) => `at ${share * 100} %`), 'rows alone', 'vacuums')
  for (const { replicas, periods } of FLEETS) {
    const fleet = newFleet(replicas)
    await sql`select pg_stat_reset()`
    const sizes: number[] = []
    let rowsAlone = 0
    for (let period = 1; period <= periods; period++) {
      for (const carries of ['opening', 'counts', 'counts'] as const)
        await inParallel(fleet, CONNECTIONS, (member) => flush(database, member, carries))
      if (period === 1) rowsAlone = await megabytes()
      await snapshot(database)
      if (shares.some((share) => Math.round(share * periods) === period)) sizes.push(await megabytes())
      tell(`${replicas} replicas: period ${period} of ${periods}`)
    }
    tell('')
    const [stat] = await sql`select autovacuum_count as vacuums from pg_stat_user_tables
      where relname = 'boundary_usage_stats'`
    results[`growth with ${replicas}`] = { periods, sizes, rowsAlone, vacuums: stat?.vacuums }
    row(
      `${replicas} x ${periods}`,
      ...[...sizes, rowsAlone].map((size) => size.toFixed(1)),
      String(stat?.vacuums),
    )
    await sql`truncate boundary_usage_stats, boundary_usage_replicas`
  }
}

async function megabytes(): Promise<number> {
  const [found] = await sql`select pg_total_relation_size('boundary_usage_stats') as bytes`
  return Number(found?.bytes) / 2 ** 20
}

/**
 * A call that every replica of a fleet hears on a connection of its own and reports to, with a flush of one new id or
 * with a heartbeat: until the last one has heard it, until all have reported, and what that takes the database.
 */
async function calls(): Promise<void> {
  console.log(`\nA call to all replicas, each with a connection that listens; medians of ${CALLS}`)
  row('replicas', 'report', 'spread ms', 'heard ms', 'reported ms', 'snapshot ms', 'database CPU ms')
  for (const { replicas } of FLEETS.filter(({ replicas }) => replicas > 1 && replicas <= 1_000)) {
    const fleet = newFleet(replicas)
    for (const { replicaId } of fleet)
      await database.run((db) => beat(db, { replicaId, name: 'bench', version: '0' }))
    let hear: (member: Member, until: number) => void = () => {}
    const listeners = fleet.map((member) =>
      openListener({
        target: { url: server.url },
        timing: TIMING,
        onMessage: (message) => hear(member, parseAnnouncement(message)?.until ?? 0),
        onLost: () => {},
      }),
    )
    await inParallel(listeners, CONNECTIONS, (listener) => listener.run(async () => {}))
    for (const report of ['flush', 'heartbeat'] as const)
      for (const spreadMs of SPREADS_MS) {
        const runs: { heard: number; reported: number; snapshot: number; cpu: number }[] = []
        for (let run = 0; run < CALLS; run++) {
          await open(fleet)
          const before = await databaseCpuMs()
          const start = performance.now()
          let heard = 0
          const reports: Promise<void>[] = []
          const all = new Promise<void>((resolve) => {
            hear = (member, until) => {
              reports.push(reportOf(member, report, until, Math.random() * spreadMs))
              if (reports.length < replicas) return
              heard = performance.now() - start
              resolve()
            }
          })
          const until = await database.run((db) => announceCall(db, fleet[0]?.replicaId ?? ''))
          const { late } = await database.run((db) => waitForReports(db, until, 30_000), {
            deadlineMs: 60_000,
          })
          if (late > 0) throw new Error(`${late} of ${replicas} replicas were late`)
          const reported = performance.now() - start
          await all
          await Promise.all(reports)
          const cpu = (await databaseCpuMs()) - before
          runs.push({ heard, reported, snapshot: await snapshot(database), cpu })
        }
        const medianOf = (name: keyof (typeof runs)[number]) => median(runs.map((run) => run[name]))
        const figures = (['heard', 'reported', 'snapshot', 'cpu'] as const).map(medianOf)
        results[`call to ${replicas}, ${report}, spread ${spreadMs}`] = figures
        row(String(replicas), report, String(spreadMs), ...figures.map((ms) => ms.toFixed(0)))
      }
    await Promise.all(listeners.map((listener) => listener.close()))
    await sql`truncate boundary_usage_stats, boundary_usage_replicas`
  }
}

async function reportOf(member: Member, report: 'flush' | 'heartbeat', until: number, delayMs: number) {
  await sleep(delayMs)
  if (report === 'flush') await flush(database, member, 'new id', until)
  else
    await database.run((db) => beat(db, { replicaId: member.replicaId, name: 'bench', version: '0' }, until))
}

/** The CPU time of all processes of the server, in milliseconds. */
async function databaseCpuMs(): Promise<number> {
  const [own] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`
  const postmaster = own && statOf(own.pid)?.parent
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => statOf(Number(pid)))
    .filter((stat) => stat !== undefined && stat.parent === postmaster)
    .reduce((sum, stat) => sum + (stat?.cpuMs ?? 0), 0)
}

/** Undefined if the process has ended. The kernel counts in hundredths of a second. */
function statOf(pid: number): { parent: number; cpuMs: number } | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ')
    return { parent: Number(fields[1]), cpuMs: (Number(fields[11]) + Number(fields[12])) * 10 }
  } catch {
    return undefined
  }
}
