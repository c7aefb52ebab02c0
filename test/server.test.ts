// The process itself: it starts or says why not, and when told to end it loses nothing that it can keep.

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { testDatabase } from './helpers/database.js'
import { migrationNames } from './helpers/migrations.js'
import { databaseUrl, startPostgres } from './helpers/postgres.js'
import { type ProcessOptions, type ServiceProcess, startProcess } from './helpers/process.js'
import { batch, json, logs } from './helpers/replica.js'
import { until } from './helpers/until.js'

const ERROR = 50
/** What a busy machine may add to a timeout; the default timeout would be well over. */
const SLACK_MS = 3_000

/** Tests run two at a time, but for those that stop the server they share. */
const alone = { buffered: false }
t.jobs = 2

/** What the database holds, all replicas together. */
async function stored(sql: postgres.Sql): Promise<{ allowed: number; denied: number }> {
  const [row] = await sql<{ allowed: number; denied: number }[]>`
    select coalesce(sum(allowed_requests), 0)::int as allowed, coalesce(sum(denied_requests), 0)::int as denied
    from boundary_usage_stats`
  if (!row) throw new Error('no row')
  return { ...row }
}

/** The beginning of a POST /boundary/logs, whose body of `length` bytes does not come along. */
function head(length: number): string {
  return [
    'POST /boundary/logs HTTP/1.1',
    'host: 127.0.0.1',
    'content-type: application/json',
    `content-length: ${length}`,
    '\r\n',
  ].join('\r\n')
}

/** A connection that one writes to by hand. */
async function dial(t: Test, port: number): Promise<{ socket: Socket; answer: Promise<string> }> {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  let text = ''
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  socket.on('error', () => {}) // being cut off is an answer too
  return { socket, answer: once(socket, 'close').then(() => text) }
}

/** Resolves once the server has read the request's head: it has its time limit and counts as under way. */
async function untilUnderWay(service: ServiceProcess): Promise<void> {
  // Connections are served in the order in which they came: an answer on a later one says the first was read.
  for (let i = 0; i < 2; i++) {
    const answer = await service.get('/-/healthy')
    await answer.body?.cancel()
  }
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  t.test(`${signal} flushes all that was counted and exits with 0`, async (t) => {
    const { url, sql } = await testDatabase(t)
    const service = await startProcess(t, { DATABASE_URL: url })
    for (let i = 0; i < 5; i++) t.equal((await service.send({ logs: logs(3, 2) })).status, 202)
    t.strictSame(await stored(sql), { allowed: 0, denied: 0 }, 'nothing is flushed before')

    service.signal(signal)
    t.strictSame(await service.exited, { code: 0, signal: null })
    t.strictSame(await stored(sql), { allowed: 15, denied: 10 })
    t.equal((await service.log('shutting down')).signal, signal)
    t.strictSame(
      service.logs.filter(({ level }) => level >= ERROR),
      [],
      'without an error',
    )
    t.equal(service.stderr, '')
  })
}

t.test('a probe that comes on an old connection while it shuts down is answered 503', async (t) => {
  const { url } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url })
  const body = JSON.stringify(batch())
  const { socket, answer } = await dial(t, service.port)
  socket.write(head(body.length) + body.slice(0, 20))
  await untilUnderWay(service)
  service.signal('SIGTERM')
  await untilRefused(service.port)
  socket.write(`${body.slice(20)}GET /-/ready HTTP/1.1\r\nhost: localhost\r\n\r\n`)
  const [, probe = ''] = (await answer).split(/(?=HTTP\/1\.1 )/)
  t.match(probe, /^HTTP\/1\.1 503 /)
  t.match(probe, 'SHUTTING_DOWN')
})

t.test('a request under way is finished and counted, one that comes late is refused', async (t) => {
  const { url, sql } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url })
  const body = JSON.stringify(batch({ logs: logs(3, 2) }))
  const { socket, answer } = await dial(t, service.port)
  socket.write(head(body.length) + body.slice(0, 20))
  await untilUnderWay(service)

  service.signal('SIGTERM')
  await service.log('shutting down')
  await untilRefused(service.port)
  const late = JSON.stringify(batch())
  socket.write(body.slice(20) + head(late.length) + late)

  const [first = '', second = ''] = (await answer).split(/(?=HTTP\/1\.1 )/)
  t.match(first, /^HTTP\/1\.1 202 /)
  t.match(first, '{"allowed":3,"denied":2,"skipped":0}')
  t.match(second, /^HTTP\/1\.1 503 /, 'on the same connection')
  t.match(second, /^retry-after: 1\r$/im)
  t.match(second, /^connection: close\r$/im)
  t.match(second, 'SHUTTING_DOWN')
  t.strictSame(await service.exited, { code: 0, signal: null })
  t.strictSame(await stored(sql), { allowed: 3, denied: 2 }, 'refused means uncounted')
})

/** Resolves once new connections are refused. */
async function untilRefused(port: number): Promise<void> {
  await until(
    async () => {
      const socket = connect(port, '127.0.0.1')
      try {
        await once(socket, 'connect')
        return false
      } catch {
        return true
      } finally {
        socket.destroy()
      }
    },
    { what: 'new connections to be refused' },
  )
}

t.test('a client that never finishes neither holds the shutdown nor prevents the flush', async (t) => {
  const { url, sql } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url, SHUTDOWN_TIMEOUT_MS: '2000' })
  await service.send({ logs: logs(3, 2) })
  const slow = await dial(t, service.port)
  slow.socket.write(`${head(1000)}{"work`)
  const silent = await dial(t, service.port)
  await untilUnderWay(service)

  const start = performance.now()
  service.signal('SIGTERM')
  t.strictSame(await service.exited, { code: 0, signal: null })
  t.ok(performance.now() - start < 2000 + SLACK_MS, 'in time')
  t.strictSame(await stored(sql), { allowed: 3, denied: 2 })
  t.notMatch(await slow.answer, /^HTTP\/1\.1 2/, 'it was cut off')
  t.equal(await silent.answer, '')
})

t.test('an invalid setting ends the start with one line on stderr', async (t) => {
  for (const [env, line] of [
    [{ PORT: 'http' }, 'boundary-usage: PORT: invalid value "http": expected an integer from 0 to 65535\n'],
    [
      { DATABASE_URL: 'postgres://root:hunter2@db.internal:port/usage' },
      'boundary-usage: DATABASE_URL: invalid port\n',
    ],
  ] as const) {
    const service = await startProcess(t, env, { until: 'spawned' })
    t.strictSame(await service.exited, { code: 1, signal: null })
    t.equal(service.stderr, line)
    t.equal(service.stdout, '')
  }
})

t.test('a port in use ends the start with 1 and says which', async (t) => {
  const { url } = await testDatabase(t)
  const other = createServer().listen(0, '127.0.0.1')
  t.teardown(() => other.close())
  await once(other, 'listening')
  const address = other.address()
  if (typeof address !== 'object' || !address) throw new Error('no port')

  const env = { DATABASE_URL: url, PORT: String(address.port) }
  const service = await startProcess(t, env, { until: 'spawned' })
  t.strictSame(await service.exited, { code: 1, signal: null })
  t.equal(
    service.stderr,
    `boundary-usage: cannot listen on 127.0.0.1:${address.port}: the port is in use: stop the other process or change PORT\n`,
  )
  t.equal(service.stdout, '')
})

t.test('three replicas started at once on an empty database all become ready', async (t) => {
  const { url, sql } = await testDatabase(t, { unmigrated: true })
  const services = await Promise.all(
    ['a', 'b', 'c'].map((name) => startProcess(t, { DATABASE_URL: url, REPLICA_NAME: name })),
  )
  const applied = await sql`select name, count(*)::int as n from boundary_usage_migrations group by name`
  t.strictSame(
    applied.map(({ n }) => n),
    (await migrationNames()).map(() => 1),
    'every migration ran once',
  )
  for (const service of services) {
    const replicas = await listReplicas(service, 3)
    t.strictSame(replicas.map(({ name }) => name).sort(), ['a', 'b', 'c'])
    t.equal(new Set(replicas.map(({ replica_id }) => replica_id)).size, 3)
  }
})

interface ListedReplica {
  name: string
  replica_id: string
}

/** Once so many replicas have registered, which each does right after it has become ready. */
async function listReplicas(service: ServiceProcess, number: number): Promise<ListedReplica[]> {
  return until(
    async () => {
      const { replicas } = await json<{ replicas: ListedReplica[] }>(service.get('/telemetry/replicas'))
      return replicas.length >= number && replicas
    },
    { what: `${number} replicas to be listed` },
  )
}

t.test('MIGRATE_ON_START=false on an empty database ends the start and says what to do', async (t) => {
  const { url, sql } = await testDatabase(t, { unmigrated: true })
  const env = { DATABASE_URL: url, MIGRATE_ON_START: 'false' }
  const service = await startProcess(t, env, { until: 'spawned' })
  t.strictSame(await service.exited, { code: 1, signal: null })
  t.hasStrict(await service.log('cannot start'), {
    level: 60,
    msg: 'cannot start: the database lacks migrations of this version: run "node dist/server.js migrate", or start one replica with MIGRATE_ON_START=true',
  })
  const tables =
    await sql`select 1 from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`
  t.equal(tables.length, 0, 'and changes nothing')
})

t.test('MIGRATE_ON_START=false on a migrated database starts', async (t) => {
  const { url } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url, MIGRATE_ON_START: 'false' })
  t.equal((await service.send()).status, 202)
})

t.test('.env in the working directory is read, and environment variables override it', async (t) => {
  const { url } = await testDatabase(t)
  const example = await readFile(new URL('../.env.example', import.meta.url), 'utf8')
  const options: ProcessOptions = {
    files: { '.env': `${example}\nREPLICA_NAME=from-the-file\nMETRICS_TOKEN=${'m'.repeat(24)}\n` },
  }
  const service = await startProcess(t, { DATABASE_URL: url, REPLICA_NAME: 'from-outside' }, options)
  t.equal((await service.get('/metrics')).status, 401, 'a token of the file holds')
  t.strictSame(
    (await listReplicas(service, 1)).map(({ name }) => name),
    ['from-outside'],
  )
})

t.test("no line of the log holds a token, URL or id of an agent's request", async (t) => {
  const { url, sql } = await testDatabase(t, { altered: true })
  const secrets = {
    agent: 'agent-token-5d41402abc4b2a76',
    admin: 'admin-token-b9719d911017c592',
    unknown: 'unknown-token-6f8db599de986',
    workspace: randomUUID(),
    owner: randomUUID(),
    session: randomUUID(),
    host: 'secret-host.example.com',
    path: 'secret-path',
    rule: 'secret-rule',
    process: 'secret-process',
    password: new URL(url).password,
  }
  const service = await startProcess(t, {
    DATABASE_URL: url,
    AGENT_TOKENS: secrets.agent,
    ADMIN_TOKENS: secrets.admin,
    LOG_LEVEL: 'trace',
    RATE_LIMIT_PER_MINUTE: '5',
    FLUSH_INTERVAL_MS: '10',
    SHUTDOWN_TIMEOUT_MS: '1000',
  })
  const as = (token: string) => ({ authorization: `Bearer ${token}` })
  const http_request = {
    method: 'GET',
    url: `https://${secrets.host}/${secrets.path}`,
    matched_rule: secrets.rule,
  }
  const fields = {
    workspace_id: secrets.workspace,
    owner_id: secrets.owner,
    session_id: secrets.session,
    confined_process_name: secrets.process,
    logs: [{ allowed: true, sequence_number: 0, http_request }],
  }
  const statuses: number[] = []
  const note = async (answer: Promise<Response>) => {
    statuses.push((await answer).status)
  }
  await note(service.send(fields, as(secrets.agent)))
  await note(service.send({ ...fields, workspace_id: `${secrets.workspace}!` }, as(secrets.agent)))
  await note(
    service.send(
      { ...fields, logs: [{ allowed: 'no', http_request: { ...http_request, method: secrets.rule } }] },
      as(secrets.agent),
    ),
  )
  await note(service.send(fields, as(secrets.unknown)))
  await note(service.send(fields, as(secrets.admin)))
  await note(service.send(fields, { ...as(secrets.agent), 'content-encoding': secrets.rule }))
  await note(service.send(fields, { ...as(secrets.agent), 'content-type': `text/${secrets.rule}` }))
  await note(service.send(fields, as(secrets.agent)))
  await note(service.get(`/${secrets.path}?token=${secrets.agent}`, as(secrets.admin)))
  await note(service.get(`/telemetry/snapshots/${secrets.workspace}`, as(secrets.admin)))
  t.strictSame(statuses, [202, 400, 400, 401, 403, 415, 415, 429, 404, 404])

  // A failing flush and a failing request are logged with what went wrong.
  await sql`alter table boundary_usage_stats rename to away`
  await note(service.get('/telemetry/snapshot', as(secrets.admin)))
  t.equal(statuses.at(-1), 500)
  await service.log('request failed')
  service.signal('SIGTERM')
  await service.exited

  for (const [name, secret] of Object.entries(secrets)) {
    t.notOk(service.stdout.includes(secret), `${name} is not on stdout`)
    t.notOk(service.stderr.includes(secret), `${name} is not on stderr`)
  }
})

/** A server of their own for the tests that stop it. */
const mortal = await startPostgres()
t.teardown(() => mortal.remove())
let isUp = true

interface MortalDatabase {
  url: string
  stop(): Promise<void>
  start(): Promise<void>
}

/** An empty database on a server that the test may stop. */
async function mortalDatabase(): Promise<MortalDatabase> {
  if (!isUp) await start()
  const name = `test_${randomUUID().replaceAll('-', '')}`
  const admin = postgres(mortal.url, { max: 1 })
  await admin`create database ${admin(name)}`
  await admin.end()
  return { url: databaseUrl(mortal.url, name), stop, start }

  async function stop(): Promise<void> {
    await mortal.stop('immediate')
    isUp = false
  }
  async function start(): Promise<void> {
    await mortal.start()
    isUp = true
  }
}

t.test('SIGTERM with the database gone exits with 1 in time and says what may be lost', alone, async (t) => {
  const database = await mortalDatabase()
  const service = await startProcess(t, { DATABASE_URL: database.url, SHUTDOWN_TIMEOUT_MS: '1500' })
  await service.send({ logs: logs(3, 2) })
  await database.stop()

  const start = performance.now()
  service.signal('SIGTERM')
  t.strictSame(await service.exited, { code: 1, signal: null })
  t.ok(performance.now() - start < 1500 + SLACK_MS, 'in time')
  t.hasStrict(await service.log('the final flush failed'), {
    level: ERROR,
    allowed_requests: 3,
    denied_requests: 2,
  })
})

t.test('SIGTERM with the database gone and nothing to flush exits with 0', alone, async (t) => {
  const database = await mortalDatabase()
  const service = await startProcess(t, { DATABASE_URL: database.url })
  await database.stop()
  service.signal('SIGTERM')
  t.strictSame(await service.exited, { code: 0, signal: null })
})

t.test('a database that comes back within the timeout gets the last flush', alone, async (t) => {
  const database = await mortalDatabase()
  const service = await startProcess(t, { DATABASE_URL: database.url, SHUTDOWN_TIMEOUT_MS: '20000' })
  await service.send({ logs: logs(3, 2) })
  await database.stop()
  service.signal('SIGTERM')
  await service.log('database lost')
  await database.start()
  t.strictSame(await service.exited, { code: 0, signal: null })
  const next = await startProcess(t, { DATABASE_URL: database.url })
  t.hasStrict(await (await next.get('/telemetry/snapshot')).json(), {
    allowed_requests: 3,
    denied_requests: 2,
  })
})

t.test(
  'a start while the database is away serves and counts, and is ready when it comes',
  alone,
  async (t) => {
    const database = await mortalDatabase()
    await database.stop()
    const service = await startProcess(t, { DATABASE_URL: database.url }, { until: 'listening' })

    const notReady = await service.get('/-/ready')
    t.equal(notReady.status, 503)
    t.equal(notReady.headers.get('retry-after'), '1')
    t.match(await notReady.json(), { status: 'unavailable', reasons: [/schema is not in place/] })
    t.equal((await service.get('/-/healthy')).status, 200)
    t.equal((await service.send({ logs: logs(3, 2) })).status, 202)
    t.equal((await service.get('/telemetry/snapshot')).status, 503)

    await database.start()
    await service.untilReady(200)
    t.hasStrict(await (await service.get('/telemetry/snapshot')).json(), {
      allowed_requests: 3,
      denied_requests: 2,
    })
  },
)

t.test('SIGTERM while waiting for the database ends it with 0 and no error of its own', alone, async (t) => {
  const database = await mortalDatabase()
  await database.stop()
  const service = await startProcess(t, { DATABASE_URL: database.url }, { until: 'listening' })
  const { port } = new URL(database.url)
  const { msg } = await service.log(`cannot reach 127.0.0.1:${port}, trying again: `)
  service.signal('SIGTERM')
  t.strictSame(await service.exited, { code: 0, signal: null })
  t.strictSame(
    service.logs.filter(({ level }) => level >= ERROR).map((line) => line.msg),
    [msg],
  )
  t.equal(service.logs.filter(({ msg }) => msg === 'shutting down').length, 1)
})
