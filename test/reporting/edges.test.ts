// Each log is in the period in which it was tracked, but for some milliseconds around its edges.

import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Sql } from 'postgres'
import t from 'tap'
import { testDatabase } from '../helpers/database.js'
import { readEdges, recordFlushes, recordTracked } from '../helpers/edges.js'
import { allowedLog, type Replica, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

const REPLICAS = 8
const SNAPSHOTS = 2
const LOAD_MS = 10
/** Around an edge, a log may be in either period. */
const EDGE_MS = 100

const sessionOf = (index: number) => `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`

/** Sends numbered logs to the replica, one after another, until told to end; resolves with their number. */
async function load(replica: Replica, index: number, signal: AbortSignal): Promise<number> {
  const ids = { workspace_id: sessionOf(index), owner_id: sessionOf(index), session_id: sessionOf(index) }
  for (let number = 0; ; number++) {
    if (signal.aborted) return number
    const response = await replica.send({ ...ids, logs: [{ ...allowedLog, sequence_number: number }] })
    await response.arrayBuffer()
    if (response.status !== 202) throw new Error(`answered ${response.status}`)
    await sleep(LOAD_MS)
  }
}

/** Asks the database again and again until told to end; resolves with how long it took at most, in milliseconds. */
async function slowestQuery(sql: Sql, signal: AbortSignal): Promise<number> {
  let slowest = 0
  while (!signal.aborted) {
    const start = performance.now()
    await sql`select`
    slowest = Math.max(slowest, performance.now() - start)
    await sleep(LOAD_MS)
  }
  return slowest
}

for (const ACK of ['memory', 'durable'])
  t.test(`each log is in the period in which it was tracked, with ACK=${ACK}`, async (t) => {
    const { url, sql } = await testDatabase(t, { altered: true })
    await recordFlushes(sql)
    const env = { ACK, SNAPSHOT_INTERVAL_MS: '4000', FLUSH_INTERVAL_MS: '100', SNAPSHOT_GRACE_MS: '3000' }
    const replicas = await Promise.all(
      Array.from({ length: REPLICAS }, () => startReplica(t, url, env, { durableHoldMs: 3_000 })),
    )
    const tracked = new Map(
      replicas.map(({ app: { counting } }) => [counting.replica.replicaId, recordTracked(counting.tracker)]),
    )
    await Promise.all(replicas.map(({ app }) => app.reporting.started))
    await until(() => replicas.every(({ app }) => app.reporting.clock.error < EDGE_MS / 2), {
      what: 'precise clocks',
    })
    const delay = monitorEventLoopDelay({ resolution: 5 })
    delay.enable()
    const end = new AbortController()
    const loads = replicas.map((replica, index) => load(replica, index, end.signal))
    const queries = slowestQuery(sql, end.signal)

    const count = async (trigger: string) =>
      (await sql`select from telemetry_snapshots where trigger = ${trigger}`).length
    for (let n = 0; n < SNAPSHOTS; n++) {
      const before = await count('schedule')
      await until(async () => (await count('schedule')) > before, { what: 'a scheduled snapshot' })
      await sleep(1_000) // between two boundaries
      await until(async () => (await replicas[n]?.post('/telemetry/snapshot'))?.status === 200, {
        what: 'a manual snapshot',
      })
    }
    end.abort()
    const sent = (await Promise.all(loads)).reduce((sum, n) => sum + n, 0)
    const [first] = replicas
    if (!first) throw new Error('no replica')
    await until(async () => (await first.post('/telemetry/snapshot')).status === 200, {
      what: 'the last snapshot',
    })

    const { logs, distances, unexplained, snapshots } = await readEdges(sql, tracked)
    t.equal(logs, sent, 'every log is in a snapshot')
    // A busy machine holds up both the replicas, which share an event loop here, and the database.
    const lateMs = delay.max / 1e6 + (await queries)
    t.comment(`${distances.length} of ${logs} logs in the wrong period; the machine was late by ${lateMs} ms`)
    t.strictSame(
      unexplained.filter((ms) => ms > EDGE_MS + lateMs),
      [],
    )
    t.ok(snapshots.prompt > 0, `${snapshots.prompt} snapshots were taken within a second, with all replicas`)
  })
