// Starts on a database that is unavailable, refuses the replica or cannot represent its name: one line, no stack.

import t from 'tap'
import { testDatabase } from '../helpers/database.js'
import { freePort } from '../helpers/postgres.js'
import { startProcess } from '../helpers/process.js'
import { json, logs, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

t.jobs = 2

const ERROR = 50

t.test('a wrong password or database name ends the start with one line', async (t) => {
  const { url } = await testDatabase(t)
  const password = new URL(url)
  password.password = 'hunter2'
  for (const [wrong, reason] of [
    [String(password), 'password authentication failed for user "postgres"'],
    [url.replace(/[^/]*$/, 'nowhere'), 'database "nowhere" does not exist'],
  ] as const) {
    const service = await startProcess(t, { DATABASE_URL: wrong }, { until: 'spawned' })
    t.strictSame(await service.exited, { code: 1, signal: null })
    t.strictSame(
      service.logs.filter(({ level }) => level >= ERROR).map(({ msg }) => msg),
      [`cannot start: the database refuses this replica: ${reason}: correct DATABASE_URL or the database`],
    )
    t.notMatch(service.stdout + service.stderr, /hunter2| {4}at /)
  }
})

t.test('an unreachable database is logged once, and connections are attempted again', async (t) => {
  const port = await freePort()
  const service = await startProcess(
    t,
    { DATABASE_URL: `postgres://u:hunter2@127.0.0.1:${port},[::1]:${port}/d`, FLUSH_INTERVAL_MS: '10' },
    { until: 'listening' },
  )
  await service.log(`cannot reach 127.0.0.1:${port}, [::1]:${port}, trying again: `)
  t.equal((await service.send()).status, 202)
  service.signal('SIGTERM')
  await service.exited
  t.equal(service.logs.filter(({ msg }) => msg.startsWith('cannot reach')).length, 1)
  t.notMatch(service.stdout + service.stderr, 'hunter2')
})

t.test('a REPLICA_NAME that the encoding of the database cannot represent prevents no flush', async (t) => {
  const { url, sql } = await testDatabase(t)
  const name = `latin_${process.pid}`
  await sql.unsafe(`create database ${name} template template0 encoding 'LATIN1' locale 'C'`)
  t.teardown(() => sql.unsafe(`drop database ${name} with (force)`))
  const latin = url.replace(/[^/]*$/, name)
  for (const [given, stored] of [
    ['レプリカ 1', '???? 1'],
    ['Réplica', 'Réplica'],
  ] as const) {
    const replica = await startReplica(t, latin, { REPLICA_NAME: given, FLUSH_INTERVAL_MS: '10' })
    await replica.send({ logs: logs(3, 2) })
    await until(() => replica.app.counting.tracker.unflushedAge === 0, { what: 'the flush' })
    t.hasStrict(await json(replica.post('/telemetry/snapshot')), { allowed_requests: 3, denied_requests: 2 })
    const { replicas } = await json<{ replicas: { name: string }[] }>(replica.get('/telemetry/replicas'))
    t.ok(
      replicas.some((known) => known.name === stored),
      stored,
    )
    await replica.app.close()
  }
})
