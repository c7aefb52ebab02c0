// npm run bench:profile -- --server service|fastify --logs 10: where a server's time goes, by function and by package.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startPostgres } from '../helpers/postgres.js'
import {
  describeMachine,
  describePinning,
  load,
  loadOf,
  pinLoad,
  startFloor,
  startService,
} from './harness.js'

const { values } = parseArgs({
  options: {
    server: { type: 'string', default: 'service' },
    ack: { type: 'string', default: 'memory' },
    connections: { type: 'string', default: '64' },
    /** Of another version, built: its dist/server.js. */
    entry: { type: 'string' },
    logs: { type: 'string', default: '10' },
    protobuf: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '8' },
    top: { type: 'string', default: '25' },
  },
})

interface Profile {
  nodes: { id: number; callFrame: { functionName: string; url: string; lineNumber: number } }[]
  samples: number[]
  timeDeltas: number[]
}

const dir = mkdtempSync(join(tmpdir(), 'boundary-usage-profile-'))
const options = ['--cpu-prof', `--cpu-prof-dir=${dir}`]
pinLoad()
const postgres = await startPostgres()
try {
  const startedAt = performance.now()
  const server =
    values.server === 'service'
      ? await startService({ DATABASE_URL: postgres.url, ACK: values.ack }, options, values.entry)
      : await startFloor(values.server, options)
  const plan = loadOf(Number(values.logs), values.protobuf ? 'protobuf' : 'json', {
    connections: Number(values.connections),
  })
  await load(server, { ...plan, seconds: 2 }) // warm
  const from = (performance.now() - startedAt) * 1000
  const { requestsPerSecond } = await load(server, { ...plan, seconds: Number(values.seconds) })
  const until = (performance.now() - startedAt) * 1000
  await server.stop()
  console.log(`${describeMachine()}; ${describePinning()}\n${values.server}, ${values.logs} logs a batch`)
  report(from, until, requestsPerSecond * Number(values.seconds))
} finally {
  await postgres.remove()
  rmSync(dir, { recursive: true, force: true })
}

/** Time in microseconds of one request, idle time left out. */
function report(from: number, until: number, requests: number): void {
  const profile = JSON.parse(
    readFileSync(join(dir, readdirSync(dir).find((name) => name.endsWith('.cpuprofile')) ?? ''), 'utf8'),
  ) as Profile
  const frames = new Map(profile.nodes.map(({ id, callFrame }) => [id, callFrame]))
  const byFunction = new Map<string, number>()
  const byPackage = new Map<string, number>()
  let at = 0
  for (const [n, id] of profile.samples.entries()) {
    const delta = profile.timeDeltas[n] ?? 0
    at += delta
    const frame = frames.get(id)
    if (at < from || at > until || !frame || frame.functionName === '(idle)') continue
    const { functionName, url, lineNumber } = frame
    const where =
      url
        .split('/node_modules/')
        .at(-1)
        ?.replace(/^.*\/(dist|test)\//, '$1/') ?? ''
    const owner = /^(@[^/]+\/[^/]+|[^/]+)/.exec(where)?.[0] ?? 'V8 and system calls'
    add(byFunction, `${functionName || '(anonymous)'} ${where}${where && `:${lineNumber + 1}`}`, delta)
    add(byPackage, owner.startsWith('node:') ? 'node' : owner, delta)
  }
  for (const table of [byPackage, byFunction]) {
    console.log('\n us each')
    for (const [name, micros] of [...table].sort((a, b) => b[1] - a[1]).slice(0, Number(values.top)))
      console.log((micros / requests).toFixed(2).padStart(8), '', name)
  }
}

function add(table: Map<string, number>, name: string, micros: number): void {
  table.set(name, (table.get(name) ?? 0) + micros)
}
