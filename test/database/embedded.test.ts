// The embedded PostgreSQL as an operator without a server uses it: the whole service, without DATABASE_URL.

import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, rm, stat, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { sql } from 'drizzle-orm'
import t, { type Test } from 'tap'
import { parseConfig } from '../../src/config.js'
import { testDatabase } from '../helpers/database.js'
import { sizeOf } from '../helpers/files.js'
import { FOR_TESTS, type ServiceProcess, startProcess } from '../helpers/process.js'
import { logs } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

const WARN = 40
const ERROR = 50
const MIB = 2 ** 20

for (const flag of FOR_TESTS) setFlagsFromString(flag)

// The built module, because a worker thread runs only JavaScript.
const { buildApp }: typeof import('../../src/app.js') = await import(
  new URL('../../dist/app.js', import.meta.url).href
)

/** Tests run two at a time, except the first, which creates what the others copy. */
const alone = { buffered: false }
t.jobs = 2

const root = await mkdtemp(join(tmpdir(), 'boundary-usage-test-'))
t.teardown(() => rm(root, { recursive: true, force: true }))

/** The directory that the first test creates: to create one for each test would take seconds. */
const made = join(root, 'made')

/** Copies it for a test, to a path that is longer than the path of a socket may be. */
async function dataDir(t: Test): Promise<string> {
  const directory = join(root, 'a'.repeat(120), t.name.replaceAll(/\W+/g, '-'))
  await cp(made, directory, { recursive: true })
  return directory
}

async function json(answer: Promise<Response>): Promise<Record<string, unknown>> {
  return JSON.parse(await (await answer).text())
}

const powerFailures = ({ logs }: ServiceProcess) =>
  logs.filter(({ msg }) => msg.includes('but not a power failure: set DATABASE_URL'))

const errors = (service: ServiceProcess) => service.logs.filter(({ level }) => level >= ERROR)

t.test(
  'a start that is killed while it creates the data does not break the next one, which says that this takes a while; a clean end leaves only the data',
  alone,
  async (t) => {
    const temporary = join(root, 'tmp')
    await mkdir(temporary)
    const killed = await startProcess(t, { DATA_DIR: made }, { until: 'spawned' })
    const unfinished = join(made, 'postgres.new', 'PG_VERSION')
    await until(() => existsSync(unfinished), { what: unfinished })
    killed.signal('SIGKILL')
    t.strictSame(await killed.exited, { code: null, signal: 'SIGKILL' })

    const service = await startProcess(t, { DATA_DIR: made, TMPDIR: temporary })
    t.match((await service.log('creating the embedded PostgreSQL')).msg, `${made}: this takes some seconds`)
    t.equal((await service.send({ logs: logs(3, 2) })).status, 202)
    t.strictSame((await readdir(made)).toSorted(), ['lock.2', 'postgres'])

    service.signal('SIGTERM')
    t.strictSame(await service.exited, { code: 0, signal: null })
    t.strictSame(errors(service), [])
    t.equal(service.stderr, '')
    t.strictSame(await readdir(temporary), [], 'no socket stays behind')
    t.strictSame(await readdir(made), ['postgres'])
    t.equal((await stat(made)).mode & 0o077, 0, 'nobody else can read the data')

    const next = await startProcess(t, { DATA_DIR: made, TMPDIR: temporary })
    await next.log('opening the embedded PostgreSQL')
    t.hasStrict(await json(next.post('/telemetry/snapshot')), { allowed_requests: 3, denied_requests: 2 })
    next.signal('SIGINT')
    t.strictSame(await next.exited, { code: 0, signal: null })
    t.strictSame(await readdir(temporary), [])
  },
)

t.test('after a SIGKILL the next start has all that was flushed', async (t) => {
  const directory = await dataDir(t)
  const first = await startProcess(t, { DATA_DIR: directory })
  t.strictSame(powerFailures(first), [])

  // These two tests use the processes of this one, since each start takes two seconds of CPU time.
  await t.test('a second service on the same data is refused, and the first goes on', async (t) => {
    const link = join(root, 'link')
    await symlink(directory, link)
    for (const path of [directory, link]) {
      const second = await startProcess(t, { DATA_DIR: path }, { until: 'spawned' })
      t.strictSame(await second.exited, { code: 1, signal: null })
      t.equal(
        second.stderr,
        `boundary-usage: DATA_DIR: ${directory} is in use by another boundary-usage: stop it, choose another directory, or set DATABASE_URL\n`,
      )
    }
    t.equal((await first.send({ logs: logs(3, 2) })).status, 202)
    t.hasStrict(await json(first.get('/telemetry/snapshot')), { allowed_requests: 3, denied_requests: 2 })
  })

  await first.send({ logs: logs(10, 1) })
  await first.post('/telemetry/snapshot')
  await first.send({ logs: logs(3, 2) })
  const preview = await json(first.get('/telemetry/snapshot'))
  t.hasStrict(preview, { allowed_requests: 3, denied_requests: 2 })
  const history = await json(first.get('/telemetry/snapshots'))
  first.signal('SIGKILL')
  await first.exited

  const next = await startProcess(t, { DATA_DIR: directory, ACK: 'durable' })
  await t.test('ACK=durable warns that a power failure may lose what was acknowledged', async (t) => {
    t.strictSame(
      powerFailures(next).map(({ level }) => level),
      [WARN],
    )
  })
  const counts = ({
    unique_workspaces,
    unique_users,
    allowed_requests,
    denied_requests,
    period_start,
  }: typeof preview) => ({
    unique_workspaces,
    unique_users,
    allowed_requests,
    denied_requests,
    period_start,
  })
  t.strictSame(counts(await json(next.get('/telemetry/snapshot'))), counts(preview))
  t.strictSame(await json(next.get('/telemetry/snapshots')), history)
  await next.send({ logs: logs(1, 1) })
  t.hasStrict(
    await json(next.post('/telemetry/snapshot')),
    { replicas: 2, allowed_requests: 4, denied_requests: 3 },
    "and counts on, beside the dead replica's row",
  )
})

t.test('with DATABASE_URL the embedded PostgreSQL is not needed, and DATA_DIR is not touched', async (t) => {
  const { url } = await testDatabase(t)
  const nodeOptions = ['--import', withoutPackages]
  const service = await startProcess(t, { DATABASE_URL: url }, { nodeOptions })
  t.equal((await service.send()).status, 202)
  t.strictSame(await readdir(service.home), [])

  const embedded = await startProcess(t, {}, { nodeOptions, until: 'spawned' })
  t.strictSame(await embedded.exited, { code: 1, signal: null }, 'without it the start fails')
  t.equal(
    embedded.stderr,
    'boundary-usage: DATABASE_URL: got nothing, needed where the embedded PostgreSQL is not installed, which npm install --include=optional does\n',
  )
  t.strictSame(await readdir(embedded.home), [])
})

const asModule = (code: string) => `data:text/javascript,${encodeURIComponent(code)}`

/** Makes Node.js behave as where the optional dependencies are not installed. */
const withoutPackages = asModule(`
  import { register } from 'node:module'
  register(${JSON.stringify(
    asModule(`
      export function resolve(specifier, context, next) {
        if (!specifier.startsWith('@electric-sql/')) return next(specifier, context)
        throw Object.assign(new Error('Cannot find package ' + specifier), { code: 'ERR_MODULE_NOT_FOUND' })
      }`),
  )})`)

t.test('however much is flushed, the data stays small', async (t) => {
  const directory = await dataDir(t)
  const written: number[] = []
  const app = await buildApp(
    parseConfig({ DATA_DIR: directory, PORT: '0', LOG_LEVEL: 'debug', FLUSH_INTERVAL_MS: '3600000' }),
    { timing: { upkeepMs: 100, upkeepBytes: MIB }, output: { write: keepBytes, drain: async () => {} } },
  )
  t.teardown(() => app.close())
  function keepBytes(line: string): void {
    const { msg, bytes } = JSON.parse(line)
    if (msg === 'the embedded PostgreSQL was vacuumed') written.push(bytes)
  }
  await app.ready()
  await app.database.prepared
  const count = () => app.counting.count(undefined, randomUUID(), randomUUID(), 3, 2, undefined)
  const tables = join(directory, 'postgres/base')
  const before = await sizeOf(tables)

  for (let n = 0; n < 20_000; n++) count() // so that each new id writes some 20 kB anew
  while (written.length < 4) {
    count()
    await app.counting.flush()
  }
  const total = written.reduce((sum, bytes) => sum + bytes)
  const grown = (await sizeOf(tables)) - before
  t.ok(grown < total / 2, `the tables grew by ${grown} bytes when ${total} were written`)

  // Each statement ends one of the log's files, of 16 MiB, as if so much had been written.
  await app.database.run(async (db) => {
    for (let files = 0; files < 8; files++)
      await db.execute(sql`select pg_logical_emit_message(false, 'test', ''), pg_switch_wal()`)
  })
  const log = join(directory, 'postgres/pg_wal')
  await until(async () => (await sizeOf(log)) <= 3 * 16 * MIB, { what: 'the log to be cut' })
})

for (const [how, code] of [
  ['throws', "throw new Error('out of memory, say')"],
  ['exits', 'process.exit(7)'],
] as const) {
  t.test(`a database that ${how} ends the process with 1, which says what may be lost`, async (t) => {
    // SIGWINCH, which nothing else listens to, makes the worker fail.
    const fuse = asModule(`
      import { isMainThread } from 'node:worker_threads'
      const channel = new BroadcastChannel('fuse')
      if (isMainThread) process.on('SIGWINCH', () => channel.postMessage(''))
      else channel.onmessage = () => { ${code} }
      channel.unref()`)
    const service = await startProcess(
      t,
      { DATA_DIR: await dataDir(t), SHUTDOWN_TIMEOUT_MS: '1000' },
      { nodeOptions: ['--import', fuse] },
    )
    await service.send({ logs: logs(3, 2) })
    service.signal('SIGWINCH')
    t.strictSame(await service.exited, { code: 1, signal: null })
    await service.log('exiting after an uncaught error')
    t.hasStrict(await service.log('the final flush failed'), { allowed_requests: 3, denied_requests: 2 })
  })
}
