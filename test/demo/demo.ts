// npm run demo: the service on an embedded database that is gone afterwards, with a made-up history, under the traffic of
// a made-up fleet of boundaries and their forwarders.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startProcess } from '../helpers/process.js'
import { openScope } from '../helpers/scope.js'
import { makeFleet, runFleet, type Written } from './fleet.js'
import { HISTORY_DAYS, HISTORY_NAME, writeHistory } from './history.js'
import { count, requests, showProgress } from './progress.js'

const FLUSH_INTERVAL_MS = 2_000
const SNAPSHOT_INTERVAL_MS = 20_000

const { port, people } = readOptions()
const scope = openScope()
const ended = new AbortController()
// On Ctrl-C the terminal sends a signal and npm may send another; one suffices.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => ended.abort())

let agrees = false
try {
  agrees = await demo()
} finally {
  await scope.close()
}
process.exitCode = agrees ? 0 : 1

async function demo(): Promise<boolean> {
  say('Creating an embedded database with a made-up history, which takes some seconds …')
  const dataDir = await mkdtemp(join(tmpdir(), 'boundary-usage-'))
  scope.teardown(() => rm(dataDir, { recursive: true, force: true }))
  const fleet = makeFleet(people)
  const historian = await writeHistory(dataDir, fleet, SNAPSHOT_INTERVAL_MS)
  const service = await startProcess(
    scope,
    {
      PORT: port,
      DATA_DIR: dataDir,
      REPLICA_NAME: 'demo',
      FLUSH_INTERVAL_MS: String(FLUSH_INTERVAL_MS),
      SNAPSHOT_INTERVAL_MS: String(SNAPSHOT_INTERVAL_MS),
    },
    { detached: true },
  )
  void service.exited.then(() => ended.abort())
  say(`
Open ${service.url}/#hour in a browser. What to look at:
- The first line says whether anything needs attention. Half a minute from now the fleet's denied share rises sixfold
  for a minute: the line reports that, and the charts show it. It happens again every five minutes.
- Under Day, Week and Month is a history of ${HISTORY_DAYS} days. It is made up: the replica "${HISTORY_NAME}" in the list
  is its author. It has a spike of denied requests, too, three days ago.
- The API is at ${service.url}/docs, metrics at ${service.url}/metrics, and the status for
  scripts at ${service.url}/telemetry/status.
It flushes every ${FLUSH_INTERVAL_MS / 1000} s, and takes a snapshot every ${SNAPSHOT_INTERVAL_MS / 1000} s. Ctrl-C ends it.
`)

  const written: Written = { frames: 0, allowed: 0, denied: 0, sessions: 0, active: new Set() }
  const snapshots = () => service.logs.filter(({ msg }) => msg === 'snapshot taken').length
  const progress = showProgress(
    () =>
      `${count(written.active.size, 'workspace')} active, ${count(written.sessions, 'session')}; ` +
      `${count(written.frames, 'frame')}: ${requests(written)}; ` +
      `${count(snapshots(), 'snapshot')}`,
  )
  await runFleet(service.url, fleet, written, ended.signal).finally(() => {
    ended.abort()
    progress.stop()
  })

  const counted = await readCounted(service.get, historian)
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

/** All that was ever counted, without what `historian` made up: the snapshots and the period in progress. */
async function readCounted(get: (path: string) => Promise<Response>, historian: string): Promise<Counted> {
  for (;;) {
    const before = await history()
    const { allowed_requests, denied_requests } = (await json('/telemetry/snapshot')) as Requests
    // A snapshot taken in between would contain the figures of the preview, too.
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
        snapshots: (Requests & { reported_by: string })[]
        next: string | null
      }
      all.push(...page.snapshots.filter(({ reported_by }) => reported_by !== historian))
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
