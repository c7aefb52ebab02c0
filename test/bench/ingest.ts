// npm run bench: what ingest costs, as ratios to baselines measured in the same run, interleaved. Takes names of parts,
// and with --logs one size of batches.

import { mkdirSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { startPostgres } from '../helpers/postgres.js'
import {
  describeMachine,
  describePinning,
  interleave,
  type Load,
  load,
  loadInTurns,
  loadOf,
  median,
  pinLoad,
  type Rates,
  type Ratio,
  ratio,
  row,
  runParts,
  type Server,
  startFloor,
  startService,
  tell,
} from './harness.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '11' },
    logs: { type: 'string' },
    out: { type: 'string', default: '.bench/ingest.json' },
  },
})
const rounds = Number(values.rounds)
/** Of JSON. */
const sizes = values.logs === undefined ? [10, 100, 1_000] : [Number(values.logs)]
/** Of the requests per second of Fastify without a schema, by logs. */
const GOALS: Record<number, number> = { 10: 1, 100: 1.25, 1000: 1.8 }
const WARM_SECONDS = 10

const machine = `${describeMachine()}; ${describePinning()}`
const results: Record<string, unknown> = { machine, rounds }
pinLoad()
console.log(machine)
const postgres = await startPostgres({ fsync: 'on', full_page_writes: 'on' })
try {
  await runParts({ json, sessions, durable, loop }, positionals)
} finally {
  await postgres.remove()
}
mkdirSync('.bench', { recursive: true })
writeFileSync(values.out, JSON.stringify(results, null, 2))
console.log(`\nwritten to ${values.out}`)

/** What is measured side by side. */
interface Contest {
  title: string
  logs: number
  /** How long a server runs at a stretch: long against what it is still doing when it is stopped. */
  stretchMs: number
  /** The last is compared with the others. */
  runs: Record<string, { start: () => Promise<Server>; plan: Load }>
  goal: { to: string; atLeast: number }
}

async function json(): Promise<void> {
  const service = () => startService({ DATABASE_URL: postgres.url })
  for (const logs of sizes) {
    const plan = loadOf(logs, 'json', { seconds: 2 })
    await compare({
      title: `JSON, ${logs} logs a batch`,
      logs,
      stretchMs: 100,
      runs: {
        bare: { start: () => startFloor('bare'), plan },
        parse: { start: () => startFloor('parse'), plan },
        fastify: { start: () => startFloor('fastify'), plan },
        service: { start: service, plan },
      },
      goal: { to: 'fastify', atLeast: GOALS[logs] ?? 1 },
    })
  }
  if (sizes.includes(1_000))
    await compare({
      title: 'Protobuf against JSON, 1,000 logs a batch',
      logs: 1_000,
      stretchMs: 100,
      runs: {
        JSON: { start: service, plan: loadOf(1_000, 'json', { seconds: 2 }) },
        protobuf: { start: service, plan: loadOf(1_000, 'protobuf', { seconds: 2 }) },
      },
      goal: { to: 'JSON', atLeast: 2.5 },
    })
}

/** Every batch begins a session: the replica keeps its numbers, and the database gets a row for it. */
async function sessions(): Promise<void> {
  const service = () => startService({ DATABASE_URL: postgres.url })
  const options = { seconds: 2, hasNewSessions: true }
  for (const logs of sizes) {
    const plan = loadOf(logs, 'json', options)
    await compare({
      title: `JSON, ${logs} logs a batch, each of a new session`,
      logs,
      stretchMs: 100,
      runs: {
        fastify: { start: () => startFloor('fastify'), plan },
        service: { start: service, plan },
      },
      goal: { to: 'fastify', atLeast: logs < 100 ? 0.95 : logs < 1_000 ? 1.15 : 1.65 },
    })
  }
  if (sizes.includes(1_000))
    await compare({
      title: 'Protobuf against JSON, 1,000 logs a batch, each of a new session',
      logs: 1_000,
      stretchMs: 100,
      runs: {
        JSON: { start: service, plan: loadOf(1_000, 'json', options) },
        protobuf: { start: service, plan: loadOf(1_000, 'protobuf', options) },
      },
      goal: { to: 'JSON', atLeast: 2 },
    })
}

async function durable(): Promise<void> {
  const plan = loadOf(10, 'json', { connections: 256, seconds: 4 })
  const start = (ACK: string) => () => startService({ DATABASE_URL: postgres.url, ACK })
  await compare({
    title: 'ACK=durable against memory, 10 logs a batch, 256 connections',
    logs: 10,
    stretchMs: 1_000, // what is being committed meanwhile is time that costs nothing
    runs: {
      memory: { start: start('memory'), plan },
      durable: { start: start('durable'), plan },
    },
    goal: { to: 'memory', atLeast: 0.8 },
  })
}

/**
 * Each round with servers of its own: two processes of one program differ by more than their turns do. They are loaded
 * as soon as they run: V8 shrinks the heap of one that is idle, which then collects garbage far more often for a while.
 * Each round begins with another server, because of two equal ones the second gets 5 % more requests.
 */
async function compare(contest: Contest): Promise<void> {
  const { title, runs, stretchMs } = contest
  const measured = Object.fromEntries(Object.keys(runs).map((name) => [name, [] as Rates[]]))
  const entries = Object.entries(runs)
  for (let round = 1; round <= rounds; round++) {
    tell(`${title}: round ${round} of ${rounds}`)
    const first = round % entries.length
    const order = [...entries.slice(first), ...entries.slice(0, first)]
    const starts = Object.fromEntries(order.map(([name, { start }]) => [name, start]))
    const rates = await withServers(starts, async (servers) => {
      const loaded = (seconds?: number) =>
        Object.fromEntries(
          Object.entries(servers).map(([name, server]) => {
            const plan = runs[name]?.plan as Load
            return [name, { server, plan: { ...plan, seconds: seconds ?? plan.seconds } }]
          }),
        )
      await loadInTurns(loaded(WARM_SECONDS), stretchMs)
      return loadInTurns(loaded(), stretchMs)
    })
    for (const [name, one] of Object.entries(rates)) measured[name]?.push(one)
  }
  tell('')
  report(contest, measured)
}

/** Starts the servers for `work`, and stops them whatever comes of it. */
async function withServers<N extends string, T>(
  starts: Record<N, () => Promise<Server>>,
  work: (servers: Record<N, Server>) => Promise<T>,
): Promise<T> {
  const servers = {} as Record<N, Server>
  try {
    for (const name of Object.keys(starts) as N[]) servers[name] = await starts[name]()
    return await work(servers)
  } finally {
    for (const server of Object.values<Server>(servers)) await server.stop()
  }
}

/** Prints the last one's ratio to each of the others, and whether the goal is met. */
function report({ title, logs, goal }: Contest, measured: Record<string, Rates[]>): void {
  const names = Object.keys(measured)
  const last = names.at(-1) ?? ''
  const of = (name: string, field: keyof Rates) => (measured[name] ?? []).map((one) => one[field])
  // Where the load's core is the slower one, requests a second say little of the server: its CPU time still does.
  const ratios = Object.fromEntries(
    names.slice(0, -1).map((name) => [
      name,
      {
        requests: ratio(of(last, 'requestsPerSecond'), of(name, 'requestsPerSecond')),
        cpuTime: ratio(of(name, 'cpuMicros'), of(last, 'cpuMicros')),
      },
    ]),
  )
  console.log(`\n${title}; ${last} to each, by requests a second and by CPU time (95 % interval)`)
  row('', 'requests/s', 'logs/s', 'CPU us each', 'by requests'.padStart(21), 'by CPU time'.padStart(21))
  for (const name of names) {
    const rate = median(of(name, 'requestsPerSecond'))
    const to = ratios[name]
    row(
      name,
      rate.toFixed(0),
      (rate * logs).toFixed(0),
      median(of(name, 'cpuMicros')).toFixed(1),
      ...(to ? [to.requests, to.cpuTime].map(({ text }) => text.padStart(21)) : []),
    )
  }
  const { requests, cpuTime } = ratios[goal.to] ?? {}
  if (!requests || !cpuTime) throw new Error(`no ${goal.to} to compare with`)
  const verdicts = { requests: verdict(requests, goal.atLeast), cpuTime: verdict(cpuTime, goal.atLeast) }
  console.log(
    `goal, at least ${goal.atLeast} of ${goal.to}: ${verdicts.requests} by requests, ${verdicts.cpuTime} by CPU time`,
  )
  if (verdicts.requests === 'missed') process.exitCode = 1
  results[title] = { measured, ratios, goal, verdicts }
}

/** Of a goal: met or missed if the whole interval is on that side of it. */
function verdict({ low, high }: Ratio, atLeast: number): 'met' | 'missed' | 'not shown' {
  if (low >= atLeast) return 'met'
  return high < atLeast ? 'missed' : 'not shown'
}

/** The event loop's delay under full load, with and without what the service does beside ingest. */
async function loop(): Promise<void> {
  const settings = { DATABASE_URL: postgres.url }
  const starts = {
    quiet: () => startService(settings),
    busy: () => startService({ ...settings, FLUSH_INTERVAL_MS: '100', SNAPSHOT_INTERVAL_MS: '1000' }),
  }
  const plan = loadOf(100, 'json', { seconds: 2 })
  const underLoad = async (server: Server, scrapeMs: number) => {
    await delayP99(server) // what it has measured until now
    const scrapes: Promise<number>[] = []
    const scraping = setInterval(() => scrapes.push(delayP99(server)), scrapeMs)
    const { p99Ms } = await load(server, plan).finally(() => clearInterval(scraping))
    scrapes.push(delayP99(server))
    return { delayMs: Math.max(...(await Promise.all(scrapes))), p99Ms }
  }
  const title = 'Event loop under full load, 100 logs a batch'
  tell(title)
  const measured = await withServers(starts, async ({ quiet, busy }) => {
    const what = {
      'ingest alone': () => underLoad(quiet, 3_600_000),
      'flushes, snapshots, scrapes': () => underLoad(busy, 500),
    }
    await interleave(2, what) // until the compiler has settled
    return interleave(rounds, what)
  })
  tell('')
  console.log(`\n${title}`)
  row('', 'delay p99 ms', 'latency p99 ms')
  for (const [name, series] of Object.entries(measured))
    row(
      name,
      median(series.map(({ delayMs }) => delayMs)).toFixed(1),
      median(series.map(({ p99Ms }) => p99Ms)).toFixed(0),
    )
  results[title] = measured
}

/** The p99 of the event loop's delay since the scrape before, in milliseconds. */
async function delayP99(server: Server): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text()
  return Number(/^nodejs_eventloop_lag_p99_seconds (\S+)/m.exec(text)?.[1]) * 1000
}
