// npm run bench: what ingest costs, as ratios to floors measured in the same run, interleaved.

import { mkdirSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { startPostgres } from '../helpers/postgres.js'
import {
  describeMachine,
  describePinning,
  interleave,
  type Load,
  load,
  loadOf,
  type Measured,
  median,
  pinLoad,
  ratio,
  row,
  type Server,
  startFloor,
  startService,
} from './harness.js'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '15' },
    seconds: { type: 'string', default: '1' },
    out: { type: 'string', default: '.bench/ingest.json' },
  },
})
const rounds = Number(values.rounds)
const seconds = Number(values.seconds)

const machine = `${describeMachine()}; ${describePinning()}`
const results: Record<string, unknown> = { machine, rounds, seconds }
const servers: Server[] = []
pinLoad()
console.log(machine)
const postgres = await startPostgres({ fsync: 'on', full_page_writes: 'on' })
try {
  const service = await started(startService({ DATABASE_URL: postgres.url }))
  const bare = await started(startFloor('bare'))
  const parse = await started(startFloor('parse'))
  const fastify = await started(startFloor('fastify'))
  for (const logs of [10, 100, 1_000]) {
    const plan = loadOf(logs, 'json', { seconds })
    const batches = { bare: plan, parse: plan, fastify: plan, service: plan }
    await compare(`JSON, ${logs} logs a batch`, logs, batches, { bare, parse, fastify, service })
  }
  await compare(
    'Protobuf against JSON, 1,000 logs a batch',
    1_000,
    { JSON: loadOf(1_000, 'json', { seconds }), protobuf: loadOf(1_000, 'protobuf', { seconds }) },
    { JSON: service, protobuf: service },
  )
  const durable = await started(startService({ DATABASE_URL: postgres.url, ACK: 'durable' }))
  // Longer: a second would be spent on opening the connections.
  const many = loadOf(10, 'json', { connections: 256, seconds: Math.max(4, seconds) })
  await compare(
    'ACK=durable against memory, 10 logs a batch, 256 connections',
    10,
    { memory: many, durable: many },
    { memory: service, durable },
  )
  await eventLoop()
} finally {
  for (const server of servers) await server.stop()
  await postgres.remove()
}
mkdirSync('.bench', { recursive: true })
writeFileSync(values.out, JSON.stringify(results, null, 2))
console.log(`\nwritten to ${values.out}`)

async function started(starting: Promise<Server>): Promise<Server> {
  const server = await starting
  servers.push(server)
  return server
}

/** Measures them round by round, and prints the last one's ratio to each of the others. */
async function compare(
  title: string,
  logs: number,
  loads: Record<string, Load>,
  targets: Record<string, Server>,
): Promise<void> {
  const what: Record<string, () => Promise<Measured>> = {}
  for (const [name, server] of Object.entries(targets)) {
    const plan = loads[name]
    if (plan) what[name] = () => load(server, plan)
  }
  const measured = await interleave(title, rounds, what)
  const rates = (name: string) => (measured[name] ?? []).map(({ requestsPerSecond }) => requestsPerSecond)
  // Where the load's core is the slower one, requests a second say little of the server: its CPU time still does.
  const cpu = (name: string) => (measured[name] ?? []).map(({ cpuMicros }) => cpuMicros)
  const last = Object.keys(measured).at(-1) ?? ''
  console.log(`\n${title}; ${last} to each, by requests a second and by CPU time (95 % interval)`)
  row(
    '',
    'requests/s',
    'logs/s',
    'CPU us each',
    'p99 ms',
    'by requests'.padStart(21),
    'by CPU time'.padStart(21),
  )
  for (const [name, series] of Object.entries(measured)) {
    const rate = median(rates(name))
    row(
      name,
      rate.toFixed(0),
      (rate * logs).toFixed(0),
      median(cpu(name)).toFixed(1),
      median(series.map(({ p99Ms }) => p99Ms)).toFixed(0),
      ...(name === last
        ? []
        : [ratio(rates(last), rates(name)), ratio(cpu(name), cpu(last))].map(({ text }) =>
            text.padStart(21),
          )),
    )
  }
  results[title] = measured
}

/** The event loop's delay under full load, with and without what the service does beside ingest. */
async function eventLoop(): Promise<void> {
  const quiet = await started(startService({ DATABASE_URL: postgres.url }))
  const busy = await started(
    startService({
      DATABASE_URL: postgres.url,
      FLUSH_INTERVAL_MS: '100',
      SNAPSHOT_INTERVAL_MS: '1000',
    }),
  )
  const plan = loadOf(100, 'json', { seconds: Math.max(2, seconds) })
  const underLoad = async (server: Server, scrapeMs: number) => {
    await delayP99(server) // what it has measured until now
    const scrapes = setInterval(() => void delayP99(server), scrapeMs)
    const { p99Ms } = await load(server, plan)
    clearInterval(scrapes)
    return { delayMs: await delayP99(server), p99Ms }
  }
  const title = 'Event loop under full load, 100 logs a batch'
  const measured = await interleave(title, Math.min(rounds, 7), {
    'ingest alone': () => underLoad(quiet, 3_600_000),
    'flushes, snapshots, scrapes': () => underLoad(busy, 500),
  })
  console.log(`\n${title}`)
  row('', 'delay p99 ms', 'latency p99 ms')
  for (const [name, series] of Object.entries(measured))
    row(
      name.slice(0, 24),
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
