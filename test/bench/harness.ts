// What the benchmarks share: servers on a core of their own, load from another, rounds, and ratios that hold.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import autocannon from 'autocannon'
import { encode } from '../helpers/protobuf.js'
import { randomBatches } from './bodies.js'

const SERVER = fileURLToPath(new URL('../../dist/server.js', import.meta.url))
const FLOORS = fileURLToPath(new URL('baselines.ts', import.meta.url))

const canPin = spawnSync('taskset', ['--version']).status === 0 && availableParallelism() > 1
export const cores = canPin ? { server: '0', load: '1' } : undefined

/** Puts this process, which makes the load, on its core. */
export function pinLoad(): void {
  if (cores) spawnSync('taskset', ['-a', '-p', '-c', cores.load, String(process.pid)])
}

export function describeMachine(): string {
  return `${cpus()[0]?.model.trim()}, ${cpus().length} cores, Node.js ${process.version}`
}

export function describePinning(): string {
  return cores ? `server on core ${cores.server}, load and database on core ${cores.load}` : 'not pinned'
}

export interface Server {
  url: string
  pid: number
  isAlive(): boolean
  stop(): Promise<void>
}

export async function startFloor(name: string, nodeOptions: string[] = []): Promise<Server> {
  const child = start([...nodeOptions, '--import', 'tsx', FLOORS, name], {})
  const port = Number((await firstLine(child, /^\d+$/))[0])
  return serverOf(child, `http://127.0.0.1:${port}`)
}

export const AGENT = 'agent-token-of-the-benchmark'

/** The service as it is run in production, with every limit on: built, with these settings besides. */
export async function startService(
  env: Record<string, string>,
  nodeOptions: string[] = [],
  entry = SERVER,
): Promise<Server> {
  const child = start([...nodeOptions, entry], {
    AGENT_TOKENS: AGENT,
    ADMIN_TOKENS: 'admin-token-of-the-benchmark',
    RATE_LIMIT_PER_MINUTE: '1000000',
    PORT: '0',
    LOG_LEVEL: 'info',
    SNAPSHOT_INTERVAL_MS: '0',
    ...env,
  })
  const [, url] = await firstLine(child, /Server listening at (http:[^"]+)/)
  for (;;) {
    const ready = await fetch(`${url}/-/ready`).catch(() => undefined)
    if (ready?.status === 200) break
  }
  return serverOf(child, String(url))
}

function start(args: string[], env: Record<string, string>): ChildProcess {
  const [command, ...rest] = cores ? ['taskset', '-c', cores.server, process.execPath] : [process.execPath]
  return spawn(String(command), [...rest, ...args], {
    env: { PATH: process.env.PATH, NODE_ENV: 'production', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
}

async function firstLine(child: ChildProcess, pattern: RegExp): Promise<RegExpExecArray> {
  if (!child.stdout) throw new Error('no stdout')
  for await (const line of createInterface(child.stdout)) {
    const match = pattern.exec(line)
    if (match) {
      child.stdout.resume()
      return match
    }
  }
  throw new Error('the server ended before it listened')
}

function serverOf(child: ChildProcess, url: string): Server {
  return {
    url,
    pid: child.pid ?? 0,
    isAlive: () => child.exitCode === null && child.signalCode === null,
    stop: () => stop(child),
  }
}

async function stop(child: ChildProcess): Promise<void> {
  child.kill('SIGTERM')
  await once(child, 'exit')
}

export interface Load {
  bodies: (string | Buffer)[]
  headers: Record<string, string>
  connections: number
  seconds: number
  /** Whether each request is of a session of its own, instead of repeating the bodies' sessions. */
  hasNewSessions?: boolean
}

/** How many different bodies there are, by logs. */
const BODIES: Record<number, number> = { 10: 1_000, 100: 100, 1000: 20 }

/** Batches of so many logs, in JSON or protobuf, for one second unless told otherwise. */
export function loadOf(logs: number, format: 'json' | 'protobuf', options: Partial<Load> = {}): Load {
  const batches = randomBatches(BODIES[logs] ?? 100, logs)
  const isJson = format === 'json'
  return {
    bodies: batches.map((batch) => (isJson ? JSON.stringify(batch) : encode(batch))),
    headers: {
      authorization: `Bearer ${AGENT}`,
      'content-type': isJson ? 'application/json' : 'application/x-protobuf',
      ...(!isJson && {
        'x-workspace-id': batches[0]?.workspace_id ?? '',
        'x-owner-id': batches[0]?.owner_id ?? '',
      }),
    },
    connections: 64,
    seconds: 1,
    ...options,
  }
}

export interface Rates {
  requestsPerSecond: number
  /** The server's CPU time for one request, in microseconds; NaN where there is no /proc. */
  cpuMicros: number
}

export interface Measured extends Rates {
  p99Ms: number
}

/**
 * Sends for so long, every connection its share of the bodies in turn; rejects if an answer is not 202. Requests a second
 * are by `clock`, in milliseconds.
 */
export async function load(
  server: Server,
  { bodies, headers, connections, seconds, hasNewSessions = false }: Load,
  clock: () => number = () => performance.now(),
): Promise<Measured> {
  const share = Math.ceil(bodies.length / connections)
  let given = 0
  const cpu = cpuSeconds(server.pid)
  const startedAt = clock()
  const result = await autocannon({
    url: `${server.url}/boundary/logs`,
    method: 'POST',
    headers,
    connections,
    duration: seconds,
    // What reaches a stopped server with its buffers full is lost, and sent again after ever longer times.
    timeout: 2 * seconds,
    // Given all of them, each connection would build and keep its own copy, and the load be slower than the server.
    setupClient(client) {
      const first = share * given++
      client.setRequests(
        Array.from({ length: share }, (_, n) => {
          const body = bodies[(first + n) % bodies.length] ?? ''
          if (!hasNewSessions) return { body }
          const renewed = sessionRenewer(body)
          return { setupRequest: (request: autocannon.Request) => ({ ...request, body: renewed() }) }
        }),
      )
    },
  })
  if (result.non2xx > 0 || result.errors > 0)
    throw new Error(`${result.non2xx} answers that are not 2xx, ${result.errors} errors`)
  const answered = result['2xx']
  return {
    requestsPerSecond: (answered / (clock() - startedAt)) * 1000,
    p99Ms: result.latency.p99,
    cpuMicros: ((cpuSeconds(server.pid) - cpu) / answered) * 1e6,
  }
}

/** Copies of a body, each with a session id of its own. */
function sessionRenewer(body: string | Buffer): () => Buffer {
  const bytes = Buffer.from(body)
  const uuid = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}'
  const match = new RegExp(`"session_id":"(${uuid})"|\\x12\\x24(${uuid})`).exec(bytes.toString('latin1'))
  const id = match?.[1] ?? match?.[2]
  if (id === undefined) throw new Error('a body without a session')
  const offset = bytes.indexOf(id)
  return () => {
    bytes.write(randomUUID(), offset, 'latin1')
    return bytes
  }
}

/** The CPU time that a process's threads have had, in seconds; NaN where Linux's schedstat is not there. */
function cpuSeconds(pid: number): number {
  try {
    const threads = readdirSync(`/proc/${pid}/task`)
    return threads.reduce((sum, thread) => {
      const [nanoseconds] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')
      return sum + Number(nanoseconds) / 1e9
    }, 0)
  } catch {
    return Number.NaN
  }
}

/**
 * Loads all servers at once, each for its plan's seconds, of which one at a time is let run, for so long at a stretch:
 * each as if it was alone, and all on the same machine, whose speed may change within a second.
 */
export async function loadInTurns(
  runs: Record<string, { server: Server; plan: Load }>,
  stretchMs: number,
): Promise<Record<string, Rates>> {
  const all = Object.entries(runs).map(([name, run]) => ({ name, ...run, clock: new StopWatch() }))
  let isOver = false
  const turns = async () => {
    for (const { server } of all) process.kill(server.pid, 'SIGSTOP')
    while (!isOver)
      for (const { server, clock } of all) {
        clock.start()
        process.kill(server.pid, 'SIGCONT')
        await sleep(stretchMs)
        process.kill(server.pid, 'SIGSTOP')
        clock.stop()
      }
  }
  const turning = turns()
  const loads = all.map(async ({ name, server, plan, clock }): Promise<[string, Rates]> => {
    const seconds = plan.seconds * all.length
    const { requestsPerSecond, cpuMicros } = await load(server, { ...plan, seconds }, () => clock.read())
    return [name, { requestsPerSecond, cpuMicros }]
  })
  try {
    return Object.fromEntries(await Promise.race([Promise.all(loads), turning.then(() => [])]))
  } finally {
    isOver = true
    await turning.catch(() => {}) // the race has told
    for (const { server } of all) if (server.isAlive()) process.kill(server.pid, 'SIGCONT')
  }
}

/** Milliseconds that it was running for. */
class StopWatch {
  #total = 0
  #since: number | undefined

  start(): void {
    this.#since = performance.now()
  }

  stop(): void {
    this.#total = this.read()
    this.#since = undefined
  }

  read(): number {
    return this.#total + (this.#since === undefined ? 0 : performance.now() - this.#since)
  }
}

/** What is measured side by side: each turn does all of them, one after the other. */
export async function interleave<T>(
  turns: number,
  what: Record<string, () => Promise<T>>,
): Promise<Record<string, T[]>> {
  const measured = Object.fromEntries(Object.keys(what).map((name) => [name, [] as T[]]))
  for (let turn = 1; turn <= turns; turn++)
    for (const [name, measure] of Object.entries(what)) measured[name]?.push(await measure())
  return measured
}

/** Runs the parts that are asked for, or all; rejects before any of them if there is none of a name. */
export async function runParts(parts: Record<string, () => unknown>, asked: string[]): Promise<void> {
  const unknown = asked.find((name) => !(name in parts))
  if (unknown !== undefined)
    throw new Error(`no part is called ${unknown}: name ${Object.keys(parts).join(', ')}`)
  for (const [name, part] of Object.entries(parts))
    if (asked.length === 0 || asked.includes(name)) await part()
}

/** Shows on a terminal how far it has come, on a line that the next one overwrites. */
export function tell(progress: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${progress}`)
}

/** Of an even number of values, the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (rank: number) => sorted[rank] ?? Number.NaN
  return (at(Math.ceil(sorted.length / 2) - 1) + at(Math.floor(sorted.length / 2))) / 2
}

export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.round(share * (sorted.length - 1))] ?? Number.NaN
}

export interface Ratio {
  median: number
  low: number
  high: number
  /** The median and its interval; the interval alone where it is wider than the difference from 1. */
  text: string
}

/**
 * The ratio of two series measured side by side: the median over the rounds, and the interval in which that median
 * lies with a confidence of 95 % or more, between order statistics that the binomial distribution gives.
 */
export function ratio(numerators: readonly number[], denominators: readonly number[]): Ratio {
  const ratios = numerators
    .map((value, round) => value / (denominators[round] ?? Number.NaN))
    .sort((a, b) => a - b)
  const outside = ranksOutside(ratios.length)
  const low = ratios[outside - 1] ?? 0
  const high = ratios[ratios.length - outside] ?? Number.POSITIVE_INFINITY
  const middle = median(ratios)
  const range = `${low.toFixed(2)} to ${high.toFixed(2)}`
  const isClear = high - low <= Math.abs(1 - middle)
  return {
    median: middle,
    low,
    high,
    text: isClear ? `${middle.toFixed(2)} (${range})` : `unclear (${range})`,
  }
}

/** How many from each end the interval's bounds are, from 1; 0 if there are too few for any. */
function ranksOutside(n: number): number {
  let term = 0.5 ** n
  let below = term
  let rank = 0
  while (below <= 0.025) {
    rank++
    term *= (n - rank + 1) / rank
    below += term
  }
  return rank
}

/** A line of columns: the first to the left, the others to the right. */
export function row(first: string, ...others: string[]): void {
  console.log(first.padEnd(24), ...others.map((text) => text.padStart(13)))
}
