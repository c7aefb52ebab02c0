// npm run demo: the service on an embedded database that is gone afterwards, under the traffic of a
// made-up fleet of boundaries and their forwarders.

import { parseArgs } from 'node:util'
import { startProcess } from '../helpers/process.js'
import { openScope } from '../helpers/scope.js'
import { runFleet, type Written } from './fleet.js'
import { count, requests, showProgress } from './progress.js'

const FLUSH_INTERVAL_MS = 2_000
const SNAPSHOT_INTERVAL_MS = 20_000

const { port, people } = readOptions()
const scope = openScope()
const ended = new AbortController()
// On Ctrl-C a terminal signals, npm may signal again, and one is enough.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => ended.abort())

let agrees = false
try {
  agrees = await demo()
} finally {
  await scope.close()
}
process.exitCode = agrees ? 0 : 1

async function demo(): Promise<boolean> {
  say('Starting the service with an embedded database, which takes some seconds …')
  const service = await startProcess(
    scope,
    {
      PORT: port,
      REPLICA_NAME: 'demo',
      FLUSH_INTERVAL_MS: String(FLUSH_INTERVAL_MS),
      SNAPSHOT_INTERVAL_MS: String(SNAPSHOT_INTERVAL_MS),
    },
    { detached: true },
  )
  void service.exited.then(() => ended.abort())
  say(`It is at ${service.url}, its API at ${service.url}/docs, its metrics at ${service.url}/metrics.`)
  say(
    `It flushes every ${FLUSH_INTERVAL_MS / 1000} s, takes a snapshot every ${SNAPSHOT_INTERVAL_MS / 1000} s. Ctrl-C ends it.`,
  )

  const written: Written = { frames: 0, allowed: 0, denied: 0, sessions: 0, active: new Set() }
  const snapshots = () => service.logs.filter(({ msg }) => msg === 'snapshot taken').length
  const progress = showProgress(
    () =>
      `${count(written.active.size, 'workspace')} active, ${count(written.sessions, 'session')}; ` +
      `${count(written.frames, 'frame')}: ${requests(written)}; ` +
      `${count(snapshots(), 'snapshot')}`,
  )
  await runFleet(service.url, people, written, ended.signal).finally(() => {
    ended.abort()
    progress.stop()
  })

  const counted = await readCounted(service.get)
  service.signal('SIGTERM')
  const { code } = await service.exited
  if (code !== 0) throw new Error(`the service ended with ${code}:\n${service.stdout}${service.stderr}`)
  const agrees = counted.allowed === written.allowed && counted.denied === written.denied
  say(`The boundaries wrote: ${requests(written)}.`)
  say(`The service counted:  ${requests(counted)}.`)
  say(agrees ? 'They agree.' : 'They do not agree.')
  return agrees
}

interface Counted {
  allowed: number
  denied: number
}

/** All that was ever counted: the history and the period in progress. */
async function readCounted(get: (path: string) => Promise<Response>): Promise<Counted> {
  for (;;) {
    const before = await history()
    const { allowed_requests, denied_requests } = (await json('/telemetry/snapshot')) as Requests
    // A snapshot that came between has what the preview has, too.
    if ((await history()).length !== before.length) continue
    const periods = [...before, { allowed_requests, denied_requests }]
    return {
      allowed: periods.reduce((sum, each) => sum + each.allowed_requests, 0),
      denied: periods.reduce((sum, each) => sum + each.denied_requests, 0),
    }
  }

  async function history(): Promise<Requests[]> {
    const all: Requests[] = []
    for (let before = ''; ; ) {
      const page = (await json(`/telemetry/snapshots?limit=1000${before}`)) as {
        snapshots: Requests[]
        next: string | null
      }
      all.push(...page.snapshots)
      if (page.next === null) return all
      before = `&before=${encodeURIComponent(page.next)}`
    }
  }

  async function json(path: string): Promise<unknown> {
    const response = await get(path)
    if (response.status !== 200)
      throw new Error(`${path} answered ${response.status}: ${await response.text()}`)
    return response.json()
  }
}

interface Requests {
  allowed_requests: number
  denied_requests: number
}

function readOptions(): { port: string; people: number } {
  const usage = 'usage: npm run demo -- [--port 3000] [--people 40]\n'
  try {
    const { values } = parseArgs({
      options: { port: { type: 'string', default: '0' }, people: { type: 'string', default: '40' } },
    })
    const people = Number(values.people)
    if (/^\d+$/.test(values.port) && Number.isInteger(people) && people > 0)
      return { port: values.port, people }
  } catch {} // an option that there is not
  process.stderr.write(usage)
  process.exit(2)
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}
