// npm run soak:embedded -- --minutes N: the embedded PostgreSQL under load, with kills and snapshots. What was
// acknowledged must be there in the end, and its data must not grow with the number of flushes.

import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { sizeOf } from '../helpers/files.js'
import { type ServiceProcess, startProcess } from '../helpers/process.js'
import { allowedLog } from '../helpers/replica.js'
import { openScope } from '../helpers/scope.js'

const AGENTS = 16
const WORKSPACES = 1_000
const LOGS = 10
const KILL_MS = 20_000
const SNAPSHOT_MS = 5_000
const MIB = 1_048_576
/** Above a new data directory: what is written until it is vacuumed, twice, and the log. */
const MAX_GROWTH_BYTES = 192 * MIB

const { values } = parseArgs({ options: { minutes: { type: 'string', default: '1' } } })
const minutes = Number(values.minutes)
if (!(minutes > 0)) {
  process.stderr.write('usage: npm run soak:embedded -- --minutes N\n')
  process.exit(2)
}

const say = (line: string) => void process.stdout.write(`${line}\n`)
const scope = openScope()
let failed = true
try {
  failed = await soak()
} finally {
  await scope.close()
}
process.exit(failed ? 1 : 0)

async function soak(): Promise<boolean> {
  const directory = await mkdtemp(join(tmpdir(), 'boundary-usage-soak-'))
  scope.teardown(() => rm(directory, { recursive: true, force: true }))
  const start = () => startProcess(scope, { DATA_DIR: directory, ACK: 'durable' })
  let service: ServiceProcess | undefined = await start()
  const initial = await sizeOf(directory)
  const ids = Array.from({ length: WORKSPACES }, () => ({
    workspace_id: randomUUID(),
    owner_id: randomUUID(),
    session_id: randomUUID(),
    next: 0,
  }))
  const counts = { acknowledged: 0, unknown: 0, kills: 0, snapshots: 0 }
  const sizes: number[] = []
  const ended = AbortSignal.timeout(minutes * 60_000)

  async function agent(n: number): Promise<void> {
    for (let turn = n; !ended.aborted; turn += AGENTS) {
      const { next, ...session } = ids[turn % WORKSPACES] ?? { next: 0 }
      const logs = Array.from({ length: LOGS }, (_, i) => ({ ...allowedLog, sequence_number: next + i }))
      const response = await service?.send({ ...session, logs }).catch(() => undefined)
      await response?.body?.cancel()
      if (response?.status === 202) counts.acknowledged += LOGS
      else counts.unknown += LOGS
      const sender = ids[turn % WORKSPACES]
      if (sender) sender.next += LOGS
      if (!response) await sleep(100)
    }
  }

  async function every(ms: number, work: () => Promise<void>): Promise<void> {
    while (!ended.aborted) {
      await sleep(ms, undefined, { signal: ended }).catch(() => {})
      if (!ended.aborted) await work()
    }
  }

  await Promise.all([
    ...Array.from({ length: AGENTS }, (_, n) => agent(n)),
    every(SNAPSHOT_MS, async () => {
      const response = await service?.post('/telemetry/snapshot').catch(() => undefined)
      if (response?.ok) counts.snapshots++
      await response?.body?.cancel()
      await (await service?.get('/telemetry/usage').catch(() => undefined))?.body?.cancel()
    }),
    every(KILL_MS, async () => {
      const killed = service
      service = undefined
      killed?.signal('SIGKILL')
      await killed?.exited
      counts.kills++
      service = await start()
    }),
    every(2_000, async () => {
      const size = await sizeOf(directory)
      sizes.push(size)
      say(`${(size / MIB).toFixed(0)} MiB, ${JSON.stringify(counts)}`)
    }),
  ])

  service ??= await start()
  await service.post('/telemetry/snapshot')
  const { snapshots } = (await (await service.get('/telemetry/snapshots?limit=1000')).json()) as {
    snapshots: { allowed_requests: number }[]
  }
  const counted = snapshots.reduce((sum, { allowed_requests }) => sum + allowed_requests, 0)
  const largest = Math.max(...sizes)
  const isKept = counted >= counts.acknowledged && counted <= counts.acknowledged + counts.unknown
  const isSmall = largest <= initial + MAX_GROWTH_BYTES
  say(
    `${counted} counted, ${counts.acknowledged} acknowledged, ${counts.unknown} without a response or refused`,
  )
  say(
    `${(initial / MIB).toFixed(0)} MiB at first, ${(largest / MIB).toFixed(0)} MiB at most, ${((sizes.at(-1) ?? 0) / MIB).toFixed(0)} MiB in the end`,
  )
  say(isKept && isSmall ? 'passed' : `failed: ${isKept ? 'its data grew' : 'the counts are wrong'}`)
  return !(isKept && isSmall)
}
