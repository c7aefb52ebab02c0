// The disk is full, slow or limited: no boundary waits for it, and what memory holds is sent.

import { randomUUID } from 'node:crypto'
import { readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import { boundaryLogs, connectBoundary, envelopeFrame } from '../helpers/boundary.js'
import { type Forwarder, scratch, startForwarder } from '../helpers/forwarder.js'
import { type StubService, startStub } from '../helpers/stub-service.js'
import { until } from '../helpers/until.js'

t.jobs = 2

/** Makes every write to a file handle fail or wait while a file of that name exists. */
const FAULTS = `
import { existsSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
const handle = await open('/dev/null')
const prototype = Object.getPrototypeOf(handle)
await handle.close()
const { write } = prototype
prototype.write = async function (...args) {
  if (existsSync(process.env.FAULTS + '.full'))
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })
  while (existsSync(process.env.FAULTS + '.stalled')) await sleep(20)
  return write.apply(this, args)
}`

interface Setup {
  stub: StubService
  spool: string
  start: () => Promise<Forwarder>
  fault: (name: 'full' | 'stalled', isOn: boolean) => Promise<void>
}

async function setup(t: Test): Promise<Setup> {
  const stub = await startStub(t)
  await stub.stop()
  const directory = await scratch(t)
  const faults = join(directory, 'faults')
  await writeFile(`${faults}.mjs`, FAULTS)
  const ids = { BOUNDARY_USAGE_WORKSPACE_ID: randomUUID(), BOUNDARY_USAGE_OWNER_ID: randomUUID() }
  return {
    stub,
    spool: join(directory, 'spool'),
    start: () =>
      startForwarder(t, {
        urls: [stub.url],
        socket: join(directory, 'boundary.sock'),
        args: ['--spool', join(directory, 'spool')],
        env: { ...ids, FAULTS: faults },
        nodeOptions: ['--import', pathToFileURL(`${faults}.mjs`).href],
      }),
    fault: (name, isOn) => (isOn ? writeFile(`${faults}.${name}`, '') : rm(`${faults}.${name}`)),
  }
}

async function send(
  t: Test,
  { socket }: Forwarder,
  session_id: string,
  frames: number,
  first = 0,
  url?: string,
) {
  const boundary = await connectBoundary(t, socket)
  for (let n = 0; n < frames; n++)
    await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(10, first + 10 * n, url) }))
}

t.test('on a full disk logs go on in memory; when there is room again they are written, too', async (t) => {
  const { stub, spool, start, fault } = await setup(t)
  const session = randomUUID()
  const first = await start()
  await send(t, first, session, 10)
  await until(async () => (await first.totals()).logs_read === 100, { what: 'logs on disk' })
  await fault('full', true)
  await send(t, first, session, 10, 100)
  t.match(await first.log('cannot write to the spool'), { level: 40, reason: /ENOSPC/ })
  await send(t, first, session, 10, 200)
  await until(async () => (await first.totals()).logs_waiting === 300, { what: 'logs in memory' })
  await fault('full', false)
  await first.log('writing to the spool again')
  await first.kill()
  await stub.start()
  const next = await start()
  await until(() => stub.counted.size === 300, { what: 'all logs' })
  t.match(await next.totals(), { logs_recovered: 300, spool_records_bad: 0 })
  await until(async () => (await readdir(spool)).length === 1, { what: 'the files to be removed' })
})

t.test('on a full disk logs are sent; a clean end reports what it loses', async (t) => {
  const { stub, start, fault } = await setup(t)
  await fault('full', true)
  const forwarder = await start()
  await send(t, forwarder, randomUUID(), 10)
  await forwarder.log('cannot write to the spool')
  await stub.start()
  await until(() => stub.counted.size === 100, { what: 'all logs' })
  await stub.stop()
  await send(t, forwarder, randomUUID(), 1)
  t.strictSame(await forwarder.end(), { code: 0, signal: null })
  t.match(await forwarder.log('logs are lost'), { level: 50, logs: 10 })
})

t.test('a disk that takes no write holds up no boundary; beyond 8 MiB the oldest frames go', async (t) => {
  const { stub, start, fault } = await setup(t)
  const session = randomUUID()
  const forwarder = await start()
  await fault('stalled', true)
  const frames = 1000
  await send(t, forwarder, session, frames, 0, `https://example.com/${'x'.repeat(1000)}`)
  await until(async () => (await forwarder.totals()).logs_read === 10 * frames, {
    what: 'all frames to be read',
  })
  const totals = await forwarder.totals()
  const dropped = Number(totals.logs_dropped_waiting_for_disk)
  t.ok(dropped > 1000 && dropped < 5000, String(dropped))
  await forwarder.log('the disk is too slow')
  await stub.start()
  await until(async () => (await forwarder.totals()).logs_sent === 10 * frames - dropped, {
    what: 'the rest',
  })
  t.equal(stub.numbersOf(session).at(-1), 10 * frames - 1)
  await fault('stalled', false)
  await forwarder.log('the disk keeps up again')
  t.strictSame(await forwarder.end(), { code: 0, signal: null })
})
