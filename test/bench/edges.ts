// npm run bench:edges: how many logs are in the wrong period, by how far from its edge they were tracked.
//
// Eight replicas, in a process each, under a steady load of numbered logs, with scheduled and manual snapshots. Run in an
// older checkout, it shows what that version does.

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import postgres from 'postgres'
import { buildApp } from '../../src/app.js'
import { parseConfig } from '../../src/config.js'
import { connectDatabase } from '../../src/database/client.js'
import { migrate } from '../../src/database/migrate.js'
import { type Edges, readEdges, recordFlushes, recordTracked, type Tracked } from '../helpers/edges.js'
import { startPostgres } from '../helpers/postgres.js'

const REPLICAS = 8
/** Each replica gets batches of one log, one after another, with this pause. */
const LOAD_MS = 20
/** The load begins when a replica knows the database's clock to within this. */
const PRECISE_MS = 10
const SNAPSHOT_INTERVAL_MS = 5_000
const MANUAL_MS = 1_700
const LIMITS_MS = [1, 10, 100, 1_000, 10_000, Number.POSITIVE_INFINITY]

/** What a replica has done, when it is told to end. */
interface Report {
  replicaId: string
  tracked: Tracked[]
}

if (process.argv[2] === 'replica') await runReplica()
else await compare()

async function compare(): Promise<void> {
  const { values } = parseArgs({ options: { seconds: { type: 'string', default: '30' } } })
  const table: [ack: string, edges: Edges][] = []
  for (const ack of ['memory', 'durable']) table.push([ack, await measure(ack, Number(values.seconds))])
  const columns = LIMITS_MS.map((limit) => (Number.isFinite(limit) ? `to ${limit} ms` : 'more'))
  console.log(['ACK', 'snapshots', 'logs', 'wrong', ...columns].map((text) => text.padStart(12)).join(''))
  for (const [ack, { logs, snapshots, distances }] of table) {
    const counts = LIMITS_MS.map(
      (limit, index) => distances.filter((ms) => ms <= limit && ms > (LIMITS_MS[index - 1] ?? -1)).length,
    )
    const cells = [ack, snapshots.schedule + snapshots.manual, logs, distances.length, ...counts]
    console.log(cells.map((cell) => String(cell).padStart(12)).join(''))
  }
}

async function measure(ack: string, seconds: number): Promise<Edges> {
  const server = await startPostgres()
  const database = connectDatabase({ target: { url: server.url }, poolMax: 1 })
  await migrate(database)
  await database.close()
  const sql = postgres(server.url, { max: 1, onnotice: () => {} })
  await recordFlushes(sql)
  const replicas = Array.from({ length: REPLICAS }, () =>
    fork(fileURLToPath(import.meta.url), ['replica'], {
      execArgv: ['--import', 'tsx'],
      env: { ...process.env, EDGES_URL: server.url, EDGES_ACK: ack },
    }),
  )
  await Promise.all(replicas.map((replica) => once(replica, 'message')))
  const end = performance.now() + seconds * 1_000
  for (let n = 0; performance.now() < end; n++) {
    await sleep(MANUAL_MS)
    replicas[n % REPLICAS]?.send('snapshot')
  }
  const reports = await Promise.all(replicas.map(finish))
  const edges = await readEdges(sql, new Map(reports.map(({ replicaId, tracked }) => [replicaId, tracked])))
  await sql.end()
  await server.remove()
  return edges
}

async function finish(replica: ChildProcess): Promise<Report> {
  const exited = once(replica, 'exit').then(([code]) => {
    if (code !== 0) throw new Error(`a replica exited with status ${code}`)
  })
  const reported = once(replica, 'message')
  replica.send('end')
  // A replica that fails exits without a report.
  const [[report]] = (await Promise.all([reported, exited])) as [[Report], unknown]
  return report
}

async function runReplica(): Promise<void> {
  const app = await buildApp(
    parseConfig({
      DATABASE_URL: process.env.EDGES_URL,
      ACK: process.env.EDGES_ACK,
      LOG_LEVEL: 'error',
      FLUSH_INTERVAL_MS: '2000',
      SNAPSHOT_INTERVAL_MS: String(SNAPSHOT_INTERVAL_MS),
    }),
  )
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  await app.database.prepared
  const { replica, tracker } = app.counting
  const tracked = recordTracked(tracker)
  while ((app.reporting?.clock.error ?? 0) > PRECISE_MS) await sleep(100) // an older version has no such clock
  const ids = { workspace_id: replica.replicaId, owner_id: replica.replicaId, session_id: replica.replicaId }
  const log = { allowed: true, http_request: { method: 'GET', url: 'https://e.org/' } }
  let isLoading = true
  async function load(): Promise<void> {
    for (let number = 0; isLoading; number++) {
      const response = await fetch(`${url}/boundary/logs`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ...ids, logs: [{ ...log, sequence_number: number }] }),
      })
      await response.arrayBuffer() // a log that a busy replica refuses is not tracked
      await sleep(LOAD_MS)
    }
  }
  const loading = load()
  let snapshot: Promise<unknown> = Promise.resolve()
  process.on('message', async (message) => {
    if (message === 'snapshot') {
      snapshot = fetch(`${url}/telemetry/snapshot`, { method: 'POST' }).then((response) =>
        response.arrayBuffer(),
      )
      return
    }
    isLoading = false
    await loading
    await snapshot // a connection that the service has not accepted yet is reset when it closes
    await app.close()
    const report: Report = { replicaId: replica.replicaId, tracked }
    process.send?.(report, () => process.exit())
  })
  process.send?.('ready')
}
