// npm run bench:forwarder: what a forwarder carries, and what it takes: logs per second, memory, CPU, time to start.

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { pause } from '../../src/async.js'
import { type BoundaryConnection, boundaryLogs, connectBoundary, envelopeFrame } from '../helpers/boundary.js'
import { type Forwarder, scratch, startForwarder } from '../helpers/forwarder.js'
import { openScope, type Scope } from '../helpers/scope.js'
import { until } from '../helpers/until.js'

const LOGS = 1_000_000
const ROUND = 20_000
/** Far below what the spool holds by default. */
const MAX_WAITING = 100_000
const FRAME = 10
const BOUNDARIES = 20
const CALM_MS = 30_000
const STARTS = 7
const TICKS_PER_SECOND = 100

const scope = openScope()
try {
  const sink = await startSink(scope)
  const rows: Record<string, string>[] = []
  for (const spool of [false, true]) rows.push(await measure(sink, spool))
  console.table(rows)
  console.log(`after a SIGKILL with 64 MiB in the spool: ${await measureRestart(sink)}`)
} finally {
  await scope.close()
}

interface Sink {
  url: string
  bytes: number
  isAway: boolean
}

/** Acknowledges everything at once, so that the forwarder is what limits. */
async function startSink(scope: Scope): Promise<Sink> {
  const sink: Sink = { url: '', bytes: 0, isAway: false }
  const server = createServer((request, response) => {
    request.on('data', (chunk: Buffer) => {
      sink.bytes += chunk.length
    })
    request.on('end', () => {
      if (sink.isAway) response.writeHead(503).end()
      else
        response
          .writeHead(202, { 'content-type': 'application/json' })
          .end('{"allowed":1,"denied":0,"skipped":0}')
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  scope.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = server.address()
  sink.url = `http://127.0.0.1:${typeof address === 'object' && address ? address.port : 0}`
  return sink
}

async function measure(sink: Sink, spool: boolean): Promise<Record<string, string>> {
  const directory = await scratch(scope)
  const args = spool ? ['--spool', join(directory, 'spool')] : []
  const starts: number[] = []
  for (let n = 0; n < STARTS; n++) {
    const socket = join(directory, `start-${n}.sock`)
    const began = performance.now()
    const forwarder = await startForwarder(scope, { urls: [sink.url], socket, args, isReady: false })
    await until(() => accepts(socket), { what: 'the socket' })
    starts.push(performance.now() - began)
    await forwarder.end()
  }
  const forwarder = await startForwarder(scope, { urls: [sink.url], args })
  await pause(5_000)
  const atRest = await memoryOf(forwarder, 'VmRSS')

  const boundaries: BoundaryConnection[] = []
  for (let n = 0; n < BOUNDARIES; n++) boundaries.push(await connectBoundary(scope, forwarder.socket))
  const cpuBefore = await cpuOf(forwarder)
  const began = performance.now()
  const sessions = boundaries.map(() => randomUUID())
  for (let sent = 0; sent < LOGS; sent += ROUND) {
    const share = ROUND / BOUNDARIES
    await Promise.all(
      boundaries.map((boundary, n) => load(boundary, sessions[n] ?? '', share, (sent / ROUND) * share)),
    )
    // Boundaries can write faster than it sends; what waits must not reach the limit.
    await until(async () => Number((await forwarder.totals()).logs_waiting) < MAX_WAITING, {
      what: 'logs to be sent',
    })
  }
  await until(async () => (await forwarder.totals()).logs_sent === LOGS, { what: 'all logs to be sent' })
  const seconds = (performance.now() - began) / 1000
  const cpu = (await cpuOf(forwarder)) - cpuBefore
  const underLoad = await memoryOf(forwarder, 'VmHWM')

  const calmBefore = await cpuOf(forwarder)
  const calmUntil = performance.now() + CALM_MS
  for (let first = LOGS; performance.now() < calmUntil; first += FRAME) {
    for (const boundary of boundaries)
      await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(FRAME, first) }))
    await pause(5_000)
  }
  const calm = ((await cpuOf(forwarder)) - calmBefore) / (CALM_MS / 1000)
  const afterwards = await memoryOf(forwarder, 'VmRSS')
  await forwarder.end()
  return {
    spool: spool ? 'on disk' : 'in memory',
    'start, ms (median)': String(Math.round(starts.toSorted((a, b) => a - b)[Math.floor(STARTS / 2)] ?? 0)),
    'logs/s': Math.round(LOGS / seconds).toLocaleString('en-US'),
    'CPU, µs per log': ((cpu / LOGS) * 1e6).toFixed(1),
    'CPU, 20 boundaries': `${(calm * 100).toFixed(2)} %`,
    'RSS at rest, MiB': atRest.toFixed(0),
    'peak, MiB': underLoad.toFixed(0),
    'RSS a minute later, MiB': afterwards.toFixed(0),
  }
}

/** Frames of a session, as fast as the socket takes them. */
async function load(
  { socket, send }: BoundaryConnection,
  session_id: string,
  logs: number,
  from = 0,
): Promise<void> {
  for (let first = from; first < from + logs; first += FRAME) {
    const frame = envelopeFrame({ session_id, logs: boundaryLogs(FRAME, first) })
    if (socket.writableLength > 64 * 1024) await send(frame)
    else socket.write(frame)
  }
}

async function measureRestart(sink: Sink): Promise<string> {
  const directory = await scratch(scope)
  const options = {
    urls: [sink.url],
    socket: join(directory, 'boundary.sock'),
    args: ['--spool', join(directory, 'spool')],
    env: { BOUNDARY_USAGE_WORKSPACE_ID: randomUUID(), BOUNDARY_USAGE_OWNER_ID: randomUUID() },
  }
  sink.isAway = true
  const first = await startForwarder(scope, options)
  const boundary = await connectBoundary(scope, first.socket)
  await load(boundary, randomUUID(), 600_000)
  await until(async () => (await first.totals()).logs_read === 600_000, { what: 'all logs to be read' })
  const peak = await memoryOf(first, 'VmHWM')
  const { logs_waiting } = await first.totals()
  await pause(1_000)
  await first.kill()
  const began = performance.now()
  const next = await startForwarder(scope, { ...options, isReady: false })
  await until(() => accepts(next.socket), { what: 'the socket' })
  const accepting = performance.now() - began
  await next.log('found logs in the spool')
  const recovered = performance.now() - began
  const rss = await memoryOf(next, 'VmHWM')
  await next.kill()
  return (
    `${Number(logs_waiting).toLocaleString('en-US')} logs (peak ${peak.toFixed(0)} MiB); accepts after ${Math.round(accepting)} ms, ` +
    `has read the spool after ${Math.round(recovered)} ms (peak ${rss.toFixed(0)} MiB)`
  )
}

function accepts(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => resolve(true))
    socket.once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}

async function memoryOf({ pid }: Forwarder, name: 'VmRSS' | 'VmHWM'): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]) / 1024
}

/** Seconds of CPU so far. */
async function cpuOf({ pid }: Forwarder): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
}
