// The spool: what was read is sent, also after SIGKILL, and whatever has happened to the files.

import { randomUUID } from 'node:crypto'
import { copyFile, mkdir, readdir, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { boundaryLogs, connectBoundary, envelopeFrame } from '../helpers/boundary.js'
import { fileSizes } from '../helpers/files.js'
import { type Forwarder, type ForwarderOptions, scratch, startForwarder } from '../helpers/forwarder.js'
import { refusal, type StubService, startStub } from '../helpers/stub-service.js'
import { until } from '../helpers/until.js'

t.jobs = 2

interface Setup {
  stub: StubService
  directory: string
  spool: string
  start: (options?: ForwarderOptions) => Promise<Forwarder>
  segments: () => Promise<string[]>
}

async function setup(t: Test, isServing = false): Promise<Setup> {
  const stub = await startStub(t)
  if (!isServing) await stub.stop()
  const directory = await scratch(t)
  const spool = join(directory, 'spool')
  const ids = { BOUNDARY_USAGE_WORKSPACE_ID: randomUUID(), BOUNDARY_USAGE_OWNER_ID: randomUUID() }
  return {
    stub,
    directory,
    spool,
    start: (options = {}) =>
      startForwarder(t, {
        urls: [stub.url],
        socket: join(directory, 'boundary.sock'),
        ...options,
        env: { ...ids, BOUNDARY_USAGE_SPOOL: spool, ...options.env },
      }),
    segments: async () => (await readdir(spool)).filter((name) => name.endsWith('.segment')).toSorted(),
  }
}

/** Sends logs 0 to `frames` * 10 - 1 of a session. */
async function send(
  t: Test,
  { socket }: Forwarder,
  session_id: string,
  frames: number,
  first = 0,
): Promise<void> {
  const boundary = await connectBoundary(t, socket)
  for (let n = 0; n < frames; n++)
    await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(10, first + 10 * n) }))
}

/** Waits until that many logs were read, and then for the time that they may take to the disk. */
async function untilWritten(forwarder: Forwarder, logs: number): Promise<void> {
  await until(async () => (await forwarder.totals()).logs_read === logs, { what: `${logs} logs to be read` })
  await sleep(100) // the promise under test
}

t.test(
  'what was read 100 ms before a SIGKILL is sent by the next forwarder; then the files are gone',
  async (t) => {
    const { stub, spool, start, segments } = await setup(t)
    const session = randomUUID()
    let sent = 0
    for (let round = 0; round < 3; round++) {
      const forwarder = await start()
      await send(t, forwarder, session, 50, sent)
      sent += 500
      await untilWritten(forwarder, 500)
      await forwarder.kill()
      t.ok((await segments()).length > 0)
    }
    t.equal((await stat(spool)).mode & 0o777, 0o700)
    for (const name of await segments()) t.equal((await stat(join(spool, name))).mode & 0o777, 0o600)
    await stub.start()
    const last = await start()
    t.match(await last.log('found logs in the spool'), { logs: 1500 })
    await until(async () => (await last.totals()).logs_sent === 1500, { what: 'all logs' })
    t.equal(stub.numbersOf(session).length, 1500)
    const times = stub.batches.map(({ numbers }) => Math.min(...numbers))
    t.strictSame(
      times,
      times.toSorted((a, b) => a - b),
      'in order of age',
    )
    await until(async () => (await segments()).length === 0, { what: 'the files to be removed' })
    t.strictSame(await last.end(), { code: 0, signal: null })
    t.strictSame(await readdir(spool), [])
  },
)

t.test('a clean end keeps what the service does not take', async (t) => {
  const { stub, start } = await setup(t)
  const first = await start()
  const session = randomUUID()
  await send(t, first, session, 5)
  t.strictSame(await first.end(), { code: 0, signal: null })
  t.match(await first.log('stopped'), { logs_kept_in_spool: 50, logs_lost: 0 })
  await stub.start()
  await start()
  await until(() => stub.counted.size === 50, { what: 'what was kept' })
  t.equal(stub.numbersOf(session).length, 50)
})

t.test(
  'forwarders killed at random lose nothing that was on disk, and the ledger removes repetitions',
  async (t) => {
    const { stub, start } = await setup(t, true)
    let answers = 0
    stub.answer = () => (++answers % 5 === 0 ? 'lose' : answers % 7 === 0 ? refusal(503) : undefined)
    const session = randomUUID()
    let sent = 0
    for (let round = 0; round < 8; round++) {
      const forwarder = await start()
      await send(t, forwarder, session, 100, sent)
      sent += 1000
      await untilWritten(forwarder, 1000)
      await sleep(Math.random() * 1500) // at any moment of sending
      await forwarder.kill()
    }
    await start()
    await until(() => stub.counted.size === sent, { what: 'all logs' })
    t.strictSame(
      stub.numbersOf(session),
      Array.from({ length: sent }, (_, n) => n),
    )
  },
)

t.test('damaged, torn, empty and foreign segments cost their bad records and prevent no start', async (t) => {
  const { stub, directory, spool, start, segments } = await setup(t)
  const session = randomUUID()
  const first = await start()
  await send(t, first, session, 30)
  await untilWritten(first, 300)
  await first.kill()
  const [good = ''] = await segments()
  const bytes = await readFile(join(spool, good))

  // A byte in the middle of a record; the end of another cut off; garbage after it.
  bytes[Math.floor(bytes.length / 2)] = (bytes[Math.floor(bytes.length / 2)] ?? 0) ^ 0xff
  await writeFile(join(spool, good), bytes)
  await truncate(join(spool, good), bytes.length - 5)
  const name = (n: number) => join(spool, `${String(n).padStart(16, '0')}.segment`)
  await writeFile(name(50), '')
  await writeFile(name(51), bytes.subarray(0, 7))
  await writeFile(name(52), 'this is something else')
  await writeFile(name(53), Buffer.concat([record({ version: 2 }), bytes]))
  await mkdir(name(54))
  await copyFile(join(spool, good), name(57))
  await truncate(name(57), 2 ** 30) // sparse on disk, but not in memory
  await symlink(join(directory, 'elsewhere'), name(55))
  await writeFile(join(directory, 'elsewhere'), bytes)
  await symlink(join(directory, 'elsewhere'), name(56))
  await writeFile(join(spool, 'notes.txt'), 'mine')

  await stub.start()
  const next = await start()
  await until(async () => (await next.totals()).logs_recovered !== 0, { what: 'recovery' })
  await until(() => stub.counted.size === 280, { what: 'the records that are whole' })
  t.match(await next.totals(), { logs_recovered: 280, spool_records_bad: 2 })
  await send(t, next, session, 1, 1000)
  await until(() => stub.counted.size === 290, { what: 'new logs' })
  await until(async () => !(await segments()).includes(good), { what: 'the segment to be removed' })
  t.strictSame(await next.end(), { code: 0, signal: null })
  t.strictSame((await readdir(spool)).toSorted(), [
    ...[52, 53, 54, 55, 56, 57].map((n) => `${String(n).padStart(16, '0')}.segment`),
    'notes.txt',
  ])
  t.strictSame(await readFile(join(directory, 'elsewhere')), bytes)
})

t.test('a foreign file with the last of all names hides no logs from the next forwarder', async (t) => {
  const { stub, spool, start } = await setup(t)
  await mkdir(spool, { mode: 0o700, recursive: true })
  await writeFile(join(spool, '9999999999999999.segment'), 'this is something else')
  const first = await start()
  await send(t, first, randomUUID(), 5)
  await untilWritten(first, 50)
  await first.kill()
  await stub.start()
  await start()
  await until(() => stub.counted.size === 50, { what: 'what was written' })
})

/** A record as the format defines it. */
function record(header: object): Buffer {
  const content = Buffer.from(JSON.stringify(header))
  const head = Buffer.alloc(12)
  head.write('BUsp')
  head.writeUInt32BE(content.length, 4)
  head.writeUInt32BE(crc32(content), 8)
  return Buffer.concat([head, content])
}

function crc32(bytes: Buffer): number {
  let crc = ~0
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return ~crc >>> 0
}

t.test(
  'logs are sent under the ids with which they were taken; those of other ids delay nothing',
  async (t) => {
    const { stub, start, segments } = await setup(t)
    const [theirs, ours] = [randomUUID(), randomUUID()]
    const first = await start()
    await send(t, first, theirs, 20)
    await untilWritten(first, 200)
    await first.kill()
    await stub.start()
    const others = { BOUNDARY_USAGE_WORKSPACE_ID: randomUUID(), BOUNDARY_USAGE_OWNER_ID: randomUUID() }
    // As with a JWT that is for the new workspace alone.
    let refuses = true
    stub.answer = ({ workspaceId }) =>
      refuses && workspaceId !== others.BOUNDARY_USAGE_WORKSPACE_ID ? refusal(403) : undefined
    const second = await start({ env: others })
    await second.log('the service does not accept the token')
    await send(t, second, ours, 20)
    await until(() => stub.counted.size === 200, { what: 'logs of the present ids', limit: 5_000 })
    t.equal(stub.numbersOf(ours).length, 200)
    refuses = false
    await until(() => stub.counted.size === 400, { what: 'logs of the other ids' })
    t.equal(stub.numbersOf(theirs).length, 200)
    const workspaces = (session: string) =>
      new Set(
        stub.batches.filter(({ sessionId }) => sessionId === session).map(({ workspaceId }) => workspaceId),
      )
    t.equal(workspaces(theirs).size, 1)
    t.strictSame([...workspaces(ours)], [others.BOUNDARY_USAGE_WORKSPACE_ID])
    await until(async () => (await segments()).length === 0, { what: 'the files to be removed' })
  },
)

t.test(
  'a JWT that is replaced by one of another workspace applies to what is read from then on',
  async (t) => {
    const { stub, directory, start } = await setup(t, true)
    const file = join(directory, 'token')
    const tokens = [randomUUID(), randomUUID()].map((workspace_id) => {
      const part = (json: object) => Buffer.from(JSON.stringify(json)).toString('base64url')
      return {
        workspace_id,
        text: `${part({ alg: 'HS256' })}.${part({ workspace_id, owner_id: randomUUID() })}.AAAA`,
      }
    })
    const [old, fresh] = tokens
    if (!old || !fresh) throw new Error('there are two')
    let valid = old
    stub.answer = ({ token, workspaceId }) =>
      token === valid.text && workspaceId === valid.workspace_id ? undefined : refusal(403)
    await writeFile(file, old.text)
    const forwarder = await start({
      args: ['--token-file', file],
      env: { BOUNDARY_USAGE_WORKSPACE_ID: '', BOUNDARY_USAGE_OWNER_ID: '' },
    })
    const session = randomUUID()
    await send(t, forwarder, session, 1)
    await until(() => stub.counted.size === 10, { what: 'logs under the old token' })
    valid = fresh
    await writeFile(file, fresh.text)
    await send(t, forwarder, session, 1, 10)
    await forwarder.log('using the new token')
    await send(t, forwarder, session, 1, 20)
    await until(() => stub.counted.size === 20, { what: 'logs under the new token' })
    t.ok(stub.counted.has(`${old.workspace_id}/${session}/9`))
    t.ok(stub.counted.has(`${fresh.workspace_id}/${session}/29`))
    valid = old
    await writeFile(file, old.text)
    await send(t, forwarder, session, 1, 30)
    await until(() => stub.counted.has(`${old.workspace_id}/${session}/19`), {
      what: 'logs taken under the old ids',
    })
  },
)

t.test(
  'an outage longer than memory would hold: files stay within their bound, sums are exact',
  async (t) => {
    const { stub, spool, start, segments } = await setup(t)
    const limit = 8 * 2 ** 20
    const forwarder = await start({ args: ['--spool-limit', String(limit)] })
    const sessions = Array.from({ length: 5 }, () => randomUUID())
    const url = `https://example.com/${'x'.repeat(1000)}`
    let sent = 0
    for (let n = 0; n < 600; n++)
      for (const [s, session_id] of sessions.entries()) {
        // Of very different size: the largest is cut down to the others.
        if (n % (s + 1) > 0) continue
        const boundary = n === 0 ? await connectBoundary(t, forwarder.socket) : connections[s]
        if (n === 0 && boundary) connections[s] = boundary
        await boundary?.send(envelopeFrame({ session_id, logs: boundaryLogs(10, (10 * n) / (s + 1), url) }))
        sent += 10
      }
    await until(async () => (await forwarder.totals()).logs_read === sent, { what: 'all logs to be read' })
    await until(
      async () => {
        const sizes = await fileSizes(spool)
        return (
          sizes.reduce((sum, size) => sum + size, 0) <= limit + 3 * 2 ** 20 &&
          sizes.every((size) => size <= 2 ** 20)
        )
      },
      { what: 'files within their bound' },
    )
    const totals = await forwarder.totals()
    t.ok(Number(totals.logs_dropped_over_limit) > 1000)
    t.equal(totals.logs_dropped_waiting_for_disk, 0)
    await stub.start()
    await until(async () => (await forwarder.totals()).logs_waiting === 0, { what: 'everything to be sent' })
    t.equal(stub.counted.size, sent - Number(totals.logs_dropped_over_limit))
    for (const [s, session] of sessions.entries()) {
      const last = 10 * Math.floor(599 / (s + 1)) + 9
      t.equal(stub.numbersOf(session).at(-1), last, 'the highest number of each session arrives')
    }
    await until(async () => (await segments()).length === 0, { what: 'the files to be removed' })
  },
)

const connections: Awaited<ReturnType<typeof connectBoundary>>[] = []

t.test('files that somebody removes while it runs cost their logs, and nothing else', async (t) => {
  const { stub, spool, start, segments } = await setup(t)
  const first = await start()
  await send(t, first, randomUUID(), 30)
  await untilWritten(first, 300)
  await first.kill()
  const next = await start()
  await next.log('found logs')
  for (const name of await segments()) await rm(join(spool, name))
  const session = randomUUID()
  await send(t, next, session, 1)
  await stub.start()
  await until(() => stub.numbersOf(session).length === 10, { what: 'new logs' })
  await until(async () => (await next.totals()).logs_waiting === 0, { what: 'nothing to wait' })
  t.match(await next.totals(), { spool_records_bad: 30 })
})
