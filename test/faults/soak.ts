// npm run soak -- --minutes N [--ack memory|durable]: three replicas, agents, forwarders, and everything that can go
// wrong.
//
// Every agent is a boundary: it numbers the logs of its sessions and sends each log until a batch that contains it gets
// 202, to any replica, and in other batches than before. Others write to forwarders with a spool, which are killed.
// When the faults are over, each session sends a last log. What the ledger lacks then is lost; what was counted beyond
// the ledger is doubled.

import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import postgres from 'postgres'
import { sessionHash } from '../../src/counting/sessions.js'
import { freePort, startPostgres } from '../helpers/postgres.js'
import { type ServiceProcess, startProcess } from '../helpers/process.js'
import { allowedLog, deniedLog } from '../helpers/replica.js'
import { openScope, type Scope } from '../helpers/scope.js'
import { Forwarded } from './forwarded.js'
import { type FaultProxy, startProxy } from './proxy.js'

const REPLICAS = 3
const AGENTS = 24
const FORWARDERS = 2
const AGENT_PAUSE_MS = 25
/** How long a session lasts, on average. */
const SESSION_MS = 60_000
const MAX_UNSENT = 400

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

/** Logs by the response to the batch that contained them; a log that is sent twice counts twice. */
const answered = { accepted: 0, refused: 0, unknown: 0 }
const batches = { sent: 0, accepted: 0, resent: 0 }
const sessions: Session[] = []
const snapshots = { taken: 0, busy: 0, failed: 0 }
const faults = {
  kills: 0,
  terminations: 0,
  'database restarts': 0,
  'connection cuts': 0,
  'swallowed connections': 0,
}
let unexpected = 0

interface Slot {
  readonly proxy: FaultProxy
  /** Where its replicas listen, one after the other: a forwarder's URLs do not change. */
  readonly port: number
  /** Undefined while it is being replaced. */
  replica: ServiceProcess | undefined
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
      const port = await freePort()
      return { proxy, port, replica: await start(scope, proxy.through(server.url), { PORT: String(port) }) }
    }),
  )
  const end = performance.now() + minutes * 60_000
  const ended = AbortSignal.timeout(minutes * 60_000)
  const forwarded = new Forwarded(scope, {
    urls: slots.map(({ port }) => `http://127.0.0.1:${port}`),
    ended,
    sessionMs: SESSION_MS,
  })
  const forwarders = Array.from({ length: FORWARDERS }, () => forwarded.run())
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
  await Promise.all(sessions.map((session) => finish(session, slots)))
  await Promise.all(forwarders.map(async (forwarder) => (await forwarder)()))
  for (const { replica } of slots) {
    replica?.signal('SIGTERM')
    const exit = await replica?.exited
    if (exit && exit.code !== 0) unexpected++
  }

  const sql = postgres(server.url, { max: 1 })
  // Sessions go silent after 10 minutes; this moves their last logs back instead.
  await sql`update boundary_usage_sessions set last_seen_at = last_seen_at - interval '11 minutes'`
  const last = await start(scope, server.url, { SNAPSHOT_INTERVAL_MS: '0' })
  const response = await last.post('/telemetry/snapshot')
  if (response.status !== 200) throw new Error(`the last snapshot failed: ${await response.text()}`)
  last.signal('SIGTERM')
  await last.exited
  const [counted] = await sql<Counted[]>`
    select counted, duplicates, missing, recovered, late, snapshots, gaps
    from (
      select sum(allowed_requests + denied_requests)::float8 as counted, sum(duplicate_requests)::float8 as duplicates,
        sum(missing_requests)::float8 as missing, sum(recovered_requests)::float8 as recovered,
        count(*) filter (where late_replicas > 0)::int as late, count(*)::int as snapshots
      from telemetry_snapshots
    ) as recorded, (
      select count(*)::int as gaps from (
        select period_start <> lag(period_end) over (order by period_end) as gap from telemetry_snapshots
      ) as periods where gap
    ) as gaps`
  const ledger = await readLedger(sql)
  await sql.end()
  if (!counted) throw new Error('no counts')
  return report(counted, ledger, forwarded)
}

interface Counted {
  counted: number
  duplicates: number
  missing: number
  recovered: number
  /** Snapshots with late replicas. */
  late: number
  snapshots: number
  gaps: number
}

/** How many logs of a session are in the ledger. */
type Ledger = (workspaceId: string, sessionId: string) => number

async function readLedger(sql: postgres.Sql): Promise<Ledger> {
  const [settings] = await sql<{ key: string }[]>`
    select encode(sketch_key, 'hex') as key from boundary_usage_settings`
  if (!settings) throw new Error('the deployment has no key')
  const keyOf = sessionHash(Buffer.from(settings.key, 'hex'))
  const rows = await sql<{ session_key: string; received: number }[]>`
    select session_key, (select sum(upper(run) - lower(run)) from unnest(received) as run)::float8 as received
    from boundary_usage_sessions`
  const received = new Map(rows.map((row) => [row.session_key, row.received]))
  return (workspaceId, sessionId) => received.get(keyOf(workspaceId, sessionId)) ?? 0
}

async function start(
  on: Scope,
  databaseUrl: string,
  env: Record<string, string> = {},
): Promise<ServiceProcess> {
  return startProcess(on, {
    DATABASE_URL: databaseUrl,
    ACK: ack,
    FLUSH_INTERVAL_MS: '200',
    SNAPSHOT_INTERVAL_MS: '5000',
    SHUTDOWN_TIMEOUT_MS: '20000',
    ...env,
  })
}

interface Session {
  readonly ids: { workspace_id: string; owner_id: string; session_id: string }
  /** How many logs it has made: their numbers are 0, 1, 2 … */
  logs: number
  /** Numbers without a 202. */
  readonly unsent: Set<number>
}

/** Makes logs and sends them, in two batches at a time; starts a new session from time to time. */
async function agent(slots: Slot[], ended: AbortSignal): Promise<void> {
  const ids = { workspace_id: randomUUID(), owner_id: randomUUID() }
  while (!ended.aborted) {
    const session: Session = { ids: { ...ids, session_id: randomUUID() }, logs: 0, unsent: new Set() }
    sessions.push(session)
    const renewal = performance.now() + SESSION_MS * (0.5 + Math.random())
    while (!ended.aborted && performance.now() < renewal) {
      // A real boundary drops logs when nobody takes them; this one stops making them.
      for (let made = Math.floor(Math.random() * 12); made > 0 && session.unsent.size < MAX_UNSENT; made--)
        session.unsent.add(session.logs++)
      await Promise.all([send(session, slots), send(session, slots)])
      await sleep(session.unsent.size > 0 ? 50 + Math.random() * 100 : AGENT_PAUSE_MS)
    }
  }
}

/** Sends the session's last log, and all that have no 202 yet. */
async function finish(session: Session, slots: Slot[]): Promise<void> {
  session.unsent.add(session.logs++)
  while (session.unsent.size > 0) {
    await send(session, slots)
    if (session.unsent.size > 0) await sleep(50)
  }
}

/** Sends some of the logs without a 202, in any order, and now and then some that have one. */
async function send({ ids, logs, unsent }: Session, slots: Slot[]): Promise<void> {
  const { replica } = pick(slots)
  if (!replica) return
  const numbers = shuffled([...unsent]).slice(0, 1 + Math.floor(Math.random() * 40))
  if (logs > 0 && Math.random() < 0.05) {
    batches.resent++
    const from = Math.floor(Math.random() * logs)
    for (let n = from; n < Math.min(logs, from + 10); n++) if (!numbers.includes(n)) numbers.push(n)
  }
  if (numbers.length === 0) return
  batches.sent++
  const response = await replica
    .send({
      ...ids,
      logs: numbers.map((n) => ({ ...(n % 7 === 0 ? deniedLog : allowedLog), sequence_number: n })),
    })
    .catch((error: unknown) => (neverSent(error) ? 'refused' : undefined))
  if (response === 'refused') answered.refused += numbers.length
  else if (response === undefined || response.status === 504) answered.unknown += numbers.length
  else if (response.status === 202) {
    batches.accepted++
    answered.accepted += numbers.length
    for (const n of numbers) unsent.delete(n)
  } else {
    answered.refused += numbers.length
    if (response.status !== 503) unexpected++
  }
  if (response instanceof Response) await response.arrayBuffer().catch(() => {}) // the status is the outcome
}

function shuffled<T>(items: T[]): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    const [a, b] = [items[i], items[j]]
    if (a !== undefined && b !== undefined) {
      items[i] = b
      items[j] = a
    }
  }
  return items
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
  replica.signal('SIGKILL')
  slot.replica = undefined
  await replica.exited
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
    slot.replica = await start(scope, slot.proxy.through(databaseUrl), { PORT: String(slot.port) }).catch(
      () => undefined, // the database may be unavailable
    )
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
    `${Math.ceil(left / 1000)} s left: ${batches.accepted} of ${batches.sent} batches accepted, ` +
      `${kills} kills, ${terminations} terminations, ${restarts} database restarts, ${snapshots.taken} snapshots\n`,
  )
}

function report(found: Counted, ledger: Ledger, forwarded: Forwarded): boolean {
  const made = { agents: 0, forwarders: 0 }
  const lost = { agents: 0, forwarders: 0 }
  for (const { ids, logs } of sessions) {
    made.agents += logs
    lost.agents += logs - ledger(ids.workspace_id, ids.session_id)
  }
  for (const { workspaceId, id, logs } of forwarded.sessions) {
    made.forwarders += logs
    lost.forwarders += logs - ledger(workspaceId, id)
  }
  const lostInAll = lost.agents + lost.forwarders
  const doubled = found.counted + lostInAll - made.agents - made.forwarders
  const rows: [string, number | string][] = [
    ['acknowledgement', ack],
    ['minutes', minutes],
    ['sessions of agents, behind forwarders', `${sessions.length}, ${forwarded.sessions.length}`],
    ['logs of agents, each sent until 202', made.agents],
    ['logs written to forwarders', made.forwarders],
    ['logs counted', found.counted],
    ['lost by agents', lost.agents],
    ['lost behind forwarders', lost.forwarders],
    ['of at most, written just before a kill', forwarded.inDoubt],
    ['doubled', doubled],
    ['missing, recovered', `${found.missing}, ${found.recovered}`],
    ['duplicates', found.duplicates],
    ['batches sent, accepted', `${batches.sent}, ${batches.accepted}`],
    ['batches with logs that had been accepted', batches.resent],
    ['logs in accepted batches', answered.accepted],
    ['logs in refused batches', answered.refused],
    ['logs in batches of unknown outcome', answered.unknown],
    ['logs refused, dropped by forwarders', `${forwarded.refused}, ${forwarded.dropped}`],
    ['snapshots recorded, with late replicas', `${found.snapshots}, ${found.late}`],
    ['gaps between periods', found.gaps],
    ['snapshots by hand: taken, busy, failed', `${snapshots.taken}, ${snapshots.busy}, ${snapshots.failed}`],
    ...Object.entries(faults),
    ['kills of forwarders', forwarded.kills],
    ['responses and exits that should not be', unexpected],
  ]
  process.stdout.write(
    `\n${rows.map(([name, value]) => `${name.padEnd(42)} ${String(value).padStart(14)}`).join('\n')}\n`,
  )
  const isLossReported = lostInAll === found.missing - found.recovered
  const isLossBounded = ack === 'memory' || (lost.agents === 0 && lost.forwarders <= forwarded.inDoubt)
  const isWhole = forwarded.refused === 0 && forwarded.dropped === 0
  return !isLossReported || !isLossBounded || !isWhole || doubled !== 0 || found.gaps > 0 || unexpected > 0
}
