// The connection cut before, within and after every message of a flush and of a snapshot: the sum is exact.

import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { applyFlush } from '../../src/counting/flush.js'
import { Flusher } from '../../src/counting/flusher.js'
import type { Tracker } from '../../src/counting/tracker.js'
import { connectDatabase, type Database, TemporaryDatabaseError } from '../../src/database/client.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { TIMING } from '../../src/timing.js'
import { type TestDatabase, testDatabase } from '../helpers/database.js'
import { runsOf } from '../helpers/numbers.js'
import { newTracker } from '../helpers/tracker.js'
import { until } from '../helpers/until.js'
import { type FaultProxy, startProxy } from './proxy.js'

t.jobs = 3

/** How much of the message goes through before the cut. */
const CUTS = {
  before: () => 0,
  within: (length: number) => Math.floor(length / 2),
  after: (length: number) => length,
}

interface Setup {
  proxy: FaultProxy
  database: Database
  tracker: Tracker
  flusher: Flusher
  replicaId: string
  sql: TestDatabase['sql']
}

async function setup(t: Test): Promise<Setup> {
  const { url, sql } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const database = connectDatabase({
    target: { url: proxy.through(url) },
    poolMax: 1,
    timing: { ...TIMING, reconnectMs: 1 },
  })
  t.teardown(() => database.close())
  const replica = { replicaId: randomUUID(), name: 'test', version: '0.0.0' }
  const tracker = newTracker()
  const flusher = new Flusher({
    tracker,
    apply: (batch) => database.run((db) => applyFlush(db, replica, batch)),
  })
  return { proxy, database, tracker, flusher, replicaId: replica.replicaId, sql }
}

/**
 * Runs `act` again and again, the connection cut at its first message, then at its second, and so on, in each of
 * the three ways, until it gets through without meeting its cut. Resolves with how many cuts there were.
 */
async function atEveryMessage(
  proxy: FaultProxy,
  act: (where: string) => Promise<void>,
  before: () => Promise<void>,
): Promise<number> {
  let cuts = 0
  for (const [way, bytesOf] of Object.entries(CUTS))
    for (let nth = 1; ; nth++) {
      await before()
      let seen = 0
      let met = ''
      proxy.judge(({ from, type, bytes }) => {
        if (++seen !== nth) return 'pass'
        met = `${way} message ${nth}, ${type} of the ${from}`
        return { cut: bytesOf(bytes.length) }
      })
      await act(`${way} message ${nth}`)
      proxy.judge(() => 'pass')
      if (met === '') break
      cuts++
    }
  return cuts
}

/** Resolves once everything is flushed. */
async function flushed(flusher: Flusher): Promise<void> {
  await until(
    () =>
      flusher.flush().then(
        () => true,
        (error) => {
          if (!(error instanceof TemporaryDatabaseError)) throw error
          return false
        },
      ),
    { what: 'a flush that is not cut' },
  )
}

async function total(sql: Setup['sql']): Promise<{ allowed: number; denied: number }> {
  const [sum] = await sql<{ allowed: number; denied: number }[]>`
    select coalesce(sum(allowed_requests), 0)::int as allowed, coalesce(sum(denied_requests), 0)::int as denied
    from (
      select allowed_requests, denied_requests from boundary_usage_stats
      union all select allowed_requests, denied_requests from telemetry_snapshots
    ) as everywhere`
  return sum ?? { allowed: 0, denied: 0 }
}

async function totalWithDuplicates(sql: Setup['sql']) {
  const [row] = await sql<{ duplicates: number }[]>`
    select sum(duplicate_requests)::int as duplicates from boundary_usage_stats`
  return { ...(await total(sql)), ...row }
}

for (const { name, cold, form } of [
  { name: 'an open connection', cold: false, form: 'full' },
  { name: 'an open connection', cold: false, form: 'lean' },
  { name: 'a connection that is opened for it', cold: true, form: 'full' },
] as const)
  t.test(`the ${form} form of a flush on ${name} counts once, wherever it is cut`, async (t) => {
    const { proxy, database, tracker, flusher, sql } = await setup(t)
    const sent = { allowed: 0, denied: 0, duplicates: 0 }
    let ids = 0
    let next = 0
    /** Logs without a session, new ones of a session, and one that was counted before. */
    const track = () => {
      if (form === 'full' || ids === 0) ids++
      tracker.track(`workspace ${ids}`, `owner ${ids}`, 3, 2)
      const numbers = runsOf({ allowed: [Math.max(0, next - 1), next + 2], denied: [next + 2, next + 3] })
      tracker.track(`workspace 1`, `owner 1`, next === 0 ? 2 : 3, 1, { id: 's', numbers })
      sent.allowed += 5
      sent.denied += 3
      if (next > 0) sent.duplicates++
      next += 3
    }
    track()
    await flushed(flusher)
    const cuts = await atEveryMessage(
      proxy,
      async (where) => {
        track()
        await flushed(flusher)
        t.strictSame(await totalWithDuplicates(sql), sent, where)
        const [row] = await sql`select unique_workspaces_count::int as n from boundary_usage_stats`
        t.equal(row?.n, ids, `${where}: distinct ids`)
      },
      async () => {
        if (cold) proxy.cutAll()
        await database.run((db) => db.execute('select 1')).catch(() => {}) // it may find the cut
        if (!cold) await database.run((db) => db.execute('select 1'))
        else proxy.cutAll()
      },
    )
    t.ok(cuts >= 3 * 8, `${cuts} cut points`)
  })

t.test('a snapshot is taken once or not at all, wherever it is cut', async (t) => {
  const { proxy, database, tracker, flusher, replicaId, sql } = await setup(t)
  const sent = { allowed: 0, denied: 0 }
  let ids = 0
  let taken = 0
  const cuts = await atEveryMessage(
    proxy,
    async (where) => {
      const outcome = await database
        .run((db) => takeSnapshot(db, { trigger: 'manual', reportedBy: replicaId }))
        .catch((error) => {
          if (!(error instanceof TemporaryDatabaseError)) throw error
          return undefined
        })
      if (outcome?.result === 'taken') taken++
      t.strictSame(await total(sql), sent, where)
    },
    async () => {
      tracker.track(`workspace ${++ids}`, `owner ${ids}`, 3, 2)
      sent.allowed += 3
      sent.denied += 2
      await flushed(flusher)
    },
  )
  t.ok(cuts >= 3 * 20, `${cuts} cut points`)
  const [periods] =
    await sql`select count(*)::int as n, sum(unique_workspaces)::int as ids from telemetry_snapshots`
  t.ok(periods?.n >= taken, `${periods?.n} recorded, ${taken} answered`)
  const [gaps] = await sql`select count(*)::int as n from (
    select period_start <> lag(period_end) over (order by period_end) as gap from telemetry_snapshots) as p where gap`
  t.equal(gaps?.n, 0)
})
