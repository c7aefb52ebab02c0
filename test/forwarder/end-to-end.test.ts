// Boundaries, forwarders, replicas and a PostgreSQL server, all real processes, and everything that can happen to them:
// with ACK=durable and a spool, each log that was read is counted once.

import { randomInt, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, connect as dial } from 'node:net'
import { join } from 'node:path'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { pause } from '../../src/async.js'
import { Client } from '../../src/forwarder/post.js'
import { type BoundaryConnection, boundaryLogs, connectBoundary, envelopeFrame } from '../helpers/boundary.js'
import { cases } from '../helpers/effort.js'
import { type Forwarder, scratch, startForwarder } from '../helpers/forwarder.js'
import { freePort, startPostgres } from '../helpers/postgres.js'
import { type ServiceProcess, startProcess } from '../helpers/process.js'
import { encode } from '../helpers/protobuf.js'
import { until } from '../helpers/until.js'

const SESSIONS = 200
const LOGS = cases({ suite: 30_000, soak: 100_000 })
const FRAME = 10
/** What a forwarder may hold in memory alone. */
const WRITTEN_MS = 100

interface Fleet {
  sql: postgres.Sql
  /** Ports of the replicas, which they keep over restarts. */
  ports: number[]
  replicas: ServiceProcess[]
  restart(index: number, how: 'SIGTERM' | 'SIGKILL'): Promise<void>
  restartDatabase(): Promise<void>
  /** Ends the period and sums those that have ended since the last call. */
  counted(): Promise<{ allowed: number; denied: number; duplicates: number; missing: number }>
}

async function startFleet(t: Test): Promise<Fleet> {
  const server = await startPostgres()
  t.teardown(() => server.remove())
  const ports = [await freePort(), await freePort()]
  const start = (port: number) =>
    startProcess(t, {
      DATABASE_URL: server.url,
      PORT: String(port),
      ACK: 'durable',
      FLUSH_INTERVAL_MS: '1000',
    })
  const replicas = [await start(ports[0] ?? 0), await start(ports[1] ?? 0)]
  let summed = 0
  const sql = postgres(server.url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end({ timeout: 1 }))
  return {
    sql,
    ports,
    replicas,
    async restart(index, how) {
      replicas[index]?.signal(how)
      await replicas[index]?.exited
      replicas[index] = await start(ports[index] ?? 0)
    },
    async restartDatabase() {
      await server.stop('immediate')
      await server.start()
      for (const replica of replicas) await replica.untilReady(200)
    },
    async counted() {
      const [replica] = replicas
      if (!replica) throw new Error('there is one')
      await replica.post('/telemetry/snapshot')
      const { snapshots } = (await (await replica.get('/telemetry/snapshots?limit=1000')).json()) as {
        snapshots: Record<string, number>[]
      }
      const recent = snapshots.slice(0, snapshots.length - summed)
      summed = snapshots.length
      const sum = (name: string) => recent.reduce((total, snapshot) => total + Number(snapshot[name] ?? 0), 0)
      return {
        allowed: sum('allowed_requests'),
        denied: sum('denied_requests'),
        duplicates: sum('duplicate_requests'),
        missing: sum('missing_requests'),
      }
    },
  }
}

/** Whether the service counts a log once that arrives twice. Ends a period. */
async function hasLedger({ ports, counted }: Fleet): Promise<boolean> {
  const client = new Client()
  const ids = { workspaceId: randomUUID(), ownerId: randomUUID() }
  const body = encode({ session_id: randomUUID(), logs: boundaryLogs(1) })
  for (let n = 0; n < 2; n++) await client.post(new URL(`http://127.0.0.1:${ports[0]}`), body, ids, undefined)
  client.close()
  return (await counted()).allowed === 1
}

/** A proxy that loses every so-many-th response, and cuts connections. */
async function startLossyProxy(t: Test, target: number): Promise<string> {
  let responses = 0
  const server = createServer((client) => {
    const upstream = dial(target, '127.0.0.1')
    client.on('data', (chunk) => upstream.write(chunk))
    upstream.on('data', (chunk) => {
      if (++responses % 9 === 0) client.destroy()
      else client.write(chunk)
    })
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      one.on('error', () => {})
      one.on('close', () => other.destroy())
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const address = server.address()
  return `http://127.0.0.1:${typeof address === 'object' && address ? address.port : 0}`
}

t.test('200 sessions over killed forwarders, replicas and a killed database', async (t) => {
  const fleet = await startFleet(t)
  if (!(await hasLedger(fleet))) {
    t.pass('this version of the service has no ledger', { skip: true })
    return
  }
  const directory = await scratch(t)
  const socket = join(directory, 'boundary.sock')
  const urls = [await startLossyProxy(t, fleet.ports[0] ?? 0), `http://127.0.0.1:${fleet.ports[1]}`]
  const ids = { BOUNDARY_USAGE_WORKSPACE_ID: randomUUID(), BOUNDARY_USAGE_OWNER_ID: randomUUID() }
  const start = () =>
    startForwarder(t, { urls, socket, args: ['--spool', join(directory, 'spool')], env: ids })

  let forwarder: Forwarder = await start()
  let read = 0
  const sessions = Array.from({ length: SESSIONS }, () => ({ id: randomUUID(), next: 0 }))
  const perRound = 5_000
  for (let round = 0; round < LOGS / perRound; round++) {
    const boundaries: BoundaryConnection[] = []
    for (let n = 0; n < 20; n++) boundaries.push(await connectBoundary(t, socket))
    for (let sent = 0; sent < perRound; sent += FRAME) {
      const session = sessions[(sent / FRAME + round * 37) % SESSIONS]
      const boundary = boundaries[randomInt(boundaries.length)]
      if (!session || !boundary) throw new Error('there is one')
      await boundary.send(envelopeFrame({ session_id: session.id, logs: boundaryLogs(FRAME, session.next) }))
      session.next += FRAME
    }
    read += perRound
    await until(async () => (await forwarder.totals()).logs_read === read, { what: 'all frames to be read' })
    for (const boundary of boundaries) await boundary.close()
    if (round % 3 === 0) {
      await pause(WRITTEN_MS + randomInt(1_500))
      await forwarder.kill()
      forwarder = await start()
      read = 0
    } else if (round % 3 === 1) await fleet.restart(round % 2, round % 2 ? 'SIGKILL' : 'SIGTERM')
    else if (round % 6 === 2) await fleet.restartDatabase()
  }
  await until(async () => (await forwarder.totals()).logs_waiting === 0, { what: 'everything to be sent' })
  const totals = await forwarder.totals()
  t.match(totals, {
    logs_refused: 0,
    logs_dropped_over_limit: 0,
    logs_dropped_waiting_for_disk: 0,
    spool_records_bad: 0,
  })
  t.strictSame(await forwarder.end(), { code: 0, signal: null })

  const { allowed, denied, duplicates } = await fleet.counted()
  t.strictSame({ allowed, denied }, { allowed: LOGS * 0.9, denied: LOGS * 0.1 })
  t.ok(duplicates > 0, `${duplicates} logs arrived again`)
})

t.test(
  'what boundaries drop and what a killed forwarder without a spool held is missing, and nothing else',
  async (t) => {
    const fleet = await startFleet(t)
    if (!(await hasLedger(fleet))) {
      t.pass('this version of the service has no ledger', { skip: true })
      return
    }
    const urls = fleet.ports.map((port) => `http://127.0.0.1:${port}`)
    const socket = join(await scratch(t), 'boundary.sock')
    const ids = { BOUNDARY_USAGE_WORKSPACE_ID: randomUUID(), BOUNDARY_USAGE_OWNER_ID: randomUUID() }
    const first = await startForwarder(t, { urls, socket, env: ids })
    const sessions = Array.from({ length: 10 }, () => randomUUID())
    const send = async (numbers: number) => {
      const boundary = await connectBoundary(t, socket)
      for (const session_id of sessions)
        await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(FRAME, numbers) }))
    }
    await send(0)
    await until(async () => (await first.totals()).logs_sent === 100, { what: 'the first logs' })
    await send(10)
    await until(async () => (await first.totals()).logs_read === 200, { what: 'logs that it holds' })
    await first.kill()
    const second = await startForwarder(t, { urls, socket, env: ids })
    await send(25) // the boundary has dropped 20 to 24
    await until(async () => (await second.totals()).logs_sent === 100, { what: 'the last logs' })
    const { allowed, denied, duplicates } = await fleet.counted()
    t.strictSame({ total: allowed + denied, duplicates }, { total: 200, duplicates: 0 })
    // A session is silent for ten minutes before its holes are reported.
    await fleet.sql`update boundary_usage_sessions set last_seen_at = last_seen_at - interval '11 minutes'`
    t.match(await fleet.counted(), { allowed: 0, missing: 150 })
  },
)
