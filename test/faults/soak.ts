// npm run soak -- --minutes N [--ack memory|durable]: three replicas, agents, and everything that can go wrong.

import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import postgres from 'postgres'
import { startPostgres } from '../helpers/postgres.js'
import { type ServiceProcess, startProcess } from '../helpers/process.js'
import { logs } from '../helpers/replica.js'
import { openScope, type Scope } from '../helpers/scope.js'
import { type FaultProxy, startProxy } from './proxy.js'

const REPLICAS = 3
const AGENTS = 24
const AGENT_PAUSE_MS = 25

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    ack: { type: 'string', default: 'durable' },
  },
})
const minutes = Number(values.minutes)
const ack = values.ack
if (!(minutes > 0) || !['memory', 'durable'].includes(ack)) {
  process.stderr.write('usage: npm run soak -- --minutes N [--ack memory|durable]\n')
  process.exit(2)
}

/** Requests (allowed and denied logs) by what their agents were told. */
const told = { acknowledged: 0, refused: 0, unknown: 0 }
const batches = { sent: 0, acknowledged: 0 }
const snapshots = { taken: 0, busy: 0, failed: 0 }
const faults = {
  kills: 0,
  terminations: 0,
  'database restarts': 0,
  'connection cuts': 0,
  'swallowed connections': 0,
}
/** In memory mode: requests acknowledged that killed replicas held and had not flushed, as far as could be seen. */
let atRisk = 0
let unexpected = 0

interface Slot {
  proxy: FaultProxy
  /** Undefined while it is being replaced. */
  replica: ServiceProcess | undefined
  acknowledged: number
}

const scope = openScope()
let over = false
let failed = true
try {
  failed = await soak()
} finally {
  over = true
  await scope.close()
}
process.exit(failed ? 1 : 0)

async function soak(): Promise<boolean> {
  const server = await startPostgres()
  scope.teardown(() => server.remove())
  const slots = await Promise.all(
    Array.from({ length: REPLICAS }, async (): Promise<Slot> => {
      const proxy = await startProxy(scope, server.port)
      return { proxy, replica: await start(scope, proxy.through(server.url)), acknowledged: 0 }
    }),
  )
  const end = performance.now() + minutes * 60_000
  const ended = AbortSignal.timeout(minutes * 60_000)
  const progress = setInterval(() => say(Math.max(0, end - performance.now())), 5_000)

  await Promise.all([
    ...Array.from({ length: AGENTS }, () => agent(slots, ended)),
    admin(slots, ended),
    every(8_000, ended, () => kill(slots, server.url)),
    every(40_000, ended, () => terminate(slots, server.url)),
    every(3_000, ended, () => cut(slots)),
    every(60_000, ended, async () => {
      await server.stop(faults['database restarts'] % 2 ? 'immediate' : 'fast')
      await sleep(Math.random() * 5_000)
      await server.start()
      faults['database restarts']++
    }),
  ])
  clearInterval(progress)
  for (const slot of slots) slot.proxy.judge(() => 'pass')
  for (const { replica } of slots) {
    replica?.signal('SIGTERM')
    const exit = await replica?.exited
    if (exit && exit.code !== 0) unexpected++
  }

  const sql = postgres(server.url, { max: 1 })
  const [counted] = await sql<{ recorded: number; left: number; snapshots: number; gaps: number }[]>`
    select
      (select coalesce(sum(allowed_requests + denied_requests), 0)::float8 from telemetry_snapshots) as recorded,
      (select coalesce(sum(allowed_requests + denied_requests), 0)::float8 from boundary_usage_stats) as left,
      (select count(*)::int from telemetry_snapshots) as snapshots,
      (select count(*)::int from (
        select period_start <> lag(period_end) over (order by period_end) as gap from telemetry_snapshots
      ) as periods where gap) as gaps`
  await sql.end()
  if (!counted) throw new Error('no counts')
  return report(counted)
}

async function start(on: Scope, databaseUrl: string): Promise<ServiceProcess> {
  return startProcess(on, {
    DATABASE_URL: databaseUrl,
    ACK: ack,
    FLUSH_INTERVAL_MS: '200',
    SNAPSHOT_INTERVAL_MS: '5000',
    SHUTDOWN_TIMEOUT_MS: '20000',
  })
}

/** Sends batch after batch; one that was refused again, to another replica, and one without an answer not. */
async function agent(slots: Slot[], ended: AbortSignal): Promise<void> {
  const ids = { workspace_id: randomUUID(), owner_id: randomUUID() }
  while (!ended.aborted) {
    const allowed = Math.floor(Math.random() * 8)
    const denied = 1 + Math.floor(Math.random() * 4)
    const requests = allowed + denied
    for (;;) {
      const slot = pick(slots)
      const replica = slot.replica
      batches.sent++
      const response = await replica
        ?.send({ ...ids, logs: logs(allowed, denied) })
        .catch((error: unknown) => (neverSent(error) ? 'refused' : undefined))
      if (response === 'refused' || replica === undefined) {
        told.refused += requests
      } else if (response === undefined || response.status === 504) {
        told.unknown += requests
        break
      } else if (response.status === 202) {
        told.acknowledged += requests
        slot.acknowledged += requests
        batches.acknowledged++
        await response.arrayBuffer().catch(() => {}) // the status is the answer
        break
      } else {
        told.refused += requests
        if (response.status !== 503) unexpected++
        await response.arrayBuffer().catch(() => {})
      }
      if (ended.aborted) return
      await sleep(100 + Math.random() * 200)
    }
    await sleep(AGENT_PAUSE_MS)
  }
}

/** Nobody listened: the batch cannot have been counted. */
function neverSent(error: unknown): boolean {
  return (
    error instanceof Error &&
    error.cause instanceof Error &&
    'code' in error.cause &&
    error.cause.code === 'ECONNREFUSED'
  )
}

async function admin(slots: Slot[], ended: AbortSignal): Promise<void> {
  while (!ended.aborted) {
    const response = await pick(slots)
      .replica?.post('/telemetry/snapshot')
      .catch(() => undefined)
    await response?.arrayBuffer().catch(() => {})
    if (response?.status === 200) snapshots.taken++
    else if (response?.status === 409) snapshots.busy++
    else snapshots.failed++
    await sleep(Math.random() * 4_000)
  }
}

async function every(ms: number, ended: AbortSignal, act: () => Promise<void>): Promise<void> {
  while (!ended.aborted) {
    await sleep(ms * (0.5 + Math.random()), undefined, { signal: ended }).catch(() => {}) // it is over
    if (!ended.aborted) await act()
  }
}

async function kill(slots: Slot[], databaseUrl: string): Promise<void> {
  const slot = pick(slots)
  const { replica } = slot
  if (!replica) return
  const before = slot.acknowledged
  const unflushed = await replica
    .get('/metrics')
    .then((response) => response.text())
    .then((text) => Number(/^boundary_usage_unflushed_requests (\d+)$/m.exec(text)?.[1]))
  replica.signal('SIGKILL')
  slot.replica = undefined
  await replica.exited
  // Answers that were on their way when it died are read by now.
  await sleep(50)
  atRisk += unflushed + slot.acknowledged - before
  faults.kills++
  await replace(slot, databaseUrl)
}

async function terminate(slots: Slot[], databaseUrl: string): Promise<void> {
  const slot = pick(slots)
  const { replica } = slot
  if (!replica) return
  slot.replica = undefined
  replica.signal('SIGTERM')
  const { code } = await replica.exited
  if (code !== 0) unexpected++
  faults.terminations++
  await replace(slot, databaseUrl)
}

async function replace(slot: Slot, databaseUrl: string): Promise<void> {
  while (!over && !slot.replica)
    slot.replica = await start(scope, slot.proxy.through(databaseUrl)).catch(() => undefined) // the database may be away
}

async function cut(slots: Slot[]): Promise<void> {
  const { proxy } = pick(slots)
  if (Math.random() < 0.9) {
    proxy.cutAll()
    faults['connection cuts']++
    return
  }
  // One direction of one connection falls silent; all is well again after a while.
  let silenced = -1
  proxy.judge(({ connection, type }) => {
    if (silenced === -1 && type === 'E') silenced = connection
    return connection === silenced ? 'swallow' : 'pass'
  })
  faults['swallowed connections']++
  await sleep(2_000)
  proxy.judge(() => 'pass')
}

function pick<T>(from: readonly T[]): T {
  const picked = from[Math.floor(Math.random() * from.length)]
  if (picked === undefined) throw new Error('nothing to pick from')
  return picked
}

function say(left: number): void {
  const { kills, terminations, 'database restarts': restarts } = faults
  process.stdout.write(
    `${Math.ceil(left / 1000)} s left: ${batches.acknowledged} of ${batches.sent} batches acknowledged, ` +
      `${kills} kills, ${terminations} terminations, ${restarts} database restarts, ${snapshots.taken} snapshots\n`,
  )
}

function report(counted: { recorded: number; left: number; snapshots: number; gaps: number }): boolean {
  const total = counted.recorded + counted.left
  const lost = Math.max(0, told.acknowledged - total)
  const doubled = Math.max(0, total - told.acknowledged - told.unknown)
  const rows: [string, number | string][] = [
    ['acknowledgement', ack],
    ['minutes', minutes],
    ['batches sent', batches.sent],
    ['batches acknowledged', batches.acknowledged],
    ['requests acknowledged', told.acknowledged],
    ['requests refused, sent again', told.refused],
    ['requests without a known outcome', told.unknown],
    ['requests counted', total],
    ['lost of what was acknowledged', lost],
    ['doubled', doubled],
    ...(ack === 'memory' ? [['held unflushed by killed replicas', atRisk] as [string, number]] : []),
    ['snapshots recorded', counted.snapshots],
    ['gaps between periods', counted.gaps],
    ['snapshots by hand: taken, busy, failed', `${snapshots.taken}, ${snapshots.busy}, ${snapshots.failed}`],
    ...Object.entries(faults),
    ['answers and exits that should not be', unexpected],
  ]
  process.stdout.write(
    `\n${rows.map(([name, value]) => `${name.padEnd(40)} ${String(value).padStart(10)}`).join('\n')}\n`,
  )
  const mayBeLost = ack === 'durable' ? 0 : atRisk
  return lost > mayBeLost || doubled > 0 || counted.gaps > 0 || unexpected > 0
}
