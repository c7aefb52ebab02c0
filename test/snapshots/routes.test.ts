// The API below /telemetry as an admin uses it.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { startProxy } from '../faults/proxy.js'
import { lockSnapshots, testDatabase } from '../helpers/database.js'
import { json, logs, type SnapshotJson, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

t.test('a preview flushes this replica first, resets nothing and has no id', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  await replica.send({ logs: logs(6, 4) })
  for (let n = 0; n < 2; n++) {
    const response = await replica.get('/telemetry/snapshot')
    t.equal(response.status, 200)
    t.hasStrict(await response.json(), {
      id: null,
      trigger: 'manual',
      reported_by: replica.app.counting.replica.replicaId,
      replicas: 1,
      unique_workspaces: 1,
      unique_users: 1,
      unique_workspaces_summed: 1,
      unique_users_summed: 1,
      allowed_requests: 6,
      denied_requests: 4,
    })
  }
})

t.test('the response to a snapshot equals its entry in the history, in the list and by id', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  await replica.send({ logs: logs(6, 4) })
  const taken = await json(replica.post('/telemetry/snapshot'))
  t.match(taken.id, /^[0-9a-f-]{36}$/)
  t.hasStrict(taken, { allowed_requests: 6, denied_requests: 4 })
  const recorded = { ...taken, delivery: null }
  t.strictSame(await (await replica.get('/telemetry/snapshots')).json(), {
    snapshots: [recorded],
    next: null,
  })
  t.strictSame(await (await replica.get(`/telemetry/snapshots/${taken.id}`)).json(), recorded)
  t.strictSame(
    await (await replica.get(`/telemetry/snapshots/${taken.id.toUpperCase()}`)).json(),
    recorded,
    'ids are the same in either case',
  )
})

t.test('a POST needs no body, whatever type the client says that it has', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const [type, body] of [
    ['application/json', undefined],
    ['application/json', '{}'],
    ['application/x-www-form-urlencoded', 'a=b'],
    ['', undefined],
  ] as const) {
    const response = await fetch(`${replica.url}/telemetry/snapshot`, {
      method: 'POST',
      headers: type === '' ? {} : { 'content-type': type },
      ...(body !== undefined && { body }),
    })
    t.equal(response.status, 200, `${type} ${body}`)
  }
})

t.test('the history is paged, newest first, without gaps or repeats', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const ids: string[] = []
  for (let n = 0; n < 5; n++) ids.unshift((await json(replica.post('/telemetry/snapshot'))).id)
  const seen: string[] = []
  let pages = 0
  for (let before = ''; ; ) {
    const page = await json<{ snapshots: SnapshotJson[]; next: string | null }>(
      replica.get(`/telemetry/snapshots?limit=2${before && `&before=${before}`}`),
    )
    seen.push(...page.snapshots.map((snapshot) => snapshot.id))
    pages++
    if (page.next === null) break
    before = page.next
  }
  t.strictSame(seen, ids)
  t.equal(pages, 3)
})

t.test('a bad query or id is 400 and says what to change, an unknown one is 404', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const [path, message] of [
    ['/telemetry/snapshots?limit=0', /querystring\/limit must be >= 1/],
    ['/telemetry/snapshots?limit=1001', /querystring\/limit must be <= 1000/],
    ['/telemetry/snapshots?limit=x', /querystring\/limit must be integer/],
    ['/telemetry/snapshots?before=yesterday', /querystring\/before must match format "date-time"/],
    ['/telemetry/snapshots/17', /params\/id must match format "uuid"/],
    [
      '/telemetry/snapshots/urn:uuid:0b5e9a1c-6a43-4d0c-8a35-0f2f4f1f7a10',
      /params\/id must match format "uuid"/,
    ],
  ] as const) {
    const response = await replica.get(path)
    t.equal(response.status, 400, path)
    t.match(await response.json(), { statusCode: 400, error: 'Bad Request', message })
  }
  const response = await replica.get(`/telemetry/snapshots/${randomUUID()}`)
  t.equal(response.status, 404)
  t.hasStrict(await response.json(), { statusCode: 404, code: 'NOT_FOUND' })
})

t.test('while another snapshot is being taken the answer is 409 with Retry-After', async (t) => {
  const { url, sql } = await testDatabase(t)
  const replica = await startReplica(t, url)
  await sql.begin(async (tx) => {
    await lockSnapshots(tx)
    const response = await replica.post('/telemetry/snapshot')
    t.equal(response.status, 409)
    t.equal(response.headers.get('retry-after'), '1')
    t.hasStrict(await response.json(), { statusCode: 409, code: 'SNAPSHOT_IN_PROGRESS' })
  })
  t.equal((await replica.post('/telemetry/snapshot')).status, 200)
})

t.test('replicas are listed with name, version, start and last flush', async (t) => {
  const { url } = await testDatabase(t)
  const first = await startReplica(t, url, { REPLICA_NAME: 'first' })
  const second = await startReplica(t, url, { REPLICA_NAME: 'second' })
  await second.send()
  await second.app.counting.flush()
  const replicas = await until(
    async () => {
      const list = await json<{ replicas: Record<string, unknown>[] }>(first.get('/telemetry/replicas'))
      return list.replicas.length === 2 && list.replicas
    },
    { what: 'both to register' },
  )
  const { replicaId, version } = first.app.counting.replica
  t.hasStrict(replicas, [
    { replica_id: replicaId, name: 'first', version, last_flush_at: null },
    { replica_id: second.app.counting.replica.replicaId, name: 'second', version },
  ])
  const times = replicas.flatMap(({ started_at, last_flush_at, seen_at }) => [
    started_at,
    last_flush_at ?? started_at,
    seen_at,
  ])
  for (const time of times) t.match(time, /Z$/)
  t.type(replicas[1]?.last_flush_at, 'string')
})

t.test('a replica is live with its heartbeats, silent without them, stopped after a clean end', async (t) => {
  const { url, sql } = await testDatabase(t)
  const timing = { heartbeatMs: 20 }
  const replica = await startReplica(t, url, {}, timing)
  const ended = await startReplica(t, url, {}, timing)
  await until(async () => (await sql`select from boundary_usage_replicas`).length === 2, {
    what: 'both to register',
  })
  await ended.app.close()
  await sql`insert into boundary_usage_replicas (replica_id, name, version, started_at, last_flush_seq, seen_at) values
    (gen_random_uuid(), 'killed', '0', now() - interval '1 hour', 1, now() - interval '61 seconds'),
    (gen_random_uuid(), 'older', '0', now() - interval '2 hours', 1, null)`
  const statesOf = async () => {
    const { replicas } = await json<{ replicas: { name: string; state: string }[] }>(
      replica.get('/telemetry/replicas'),
    )
    return replicas.map(({ name, state }) => [name, state])
  }
  t.strictSame(await statesOf(), [
    ['older', 'silent'],
    ['killed', 'silent'],
    ['test', 'live'],
    ['test', 'stopped'],
  ])
  await sql`update boundary_usage_replicas set seen_at = now() - interval '61 seconds' where stopped_at is null`
  await until(async () => (await statesOf())[2]?.[1] === 'live', { what: 'the next heartbeat' })
})

t.test('while the database is unavailable, every endpoint responds with 503 and Retry-After', async (t) => {
  const { url } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const replica = await startReplica(t, proxy.through(url))
  await replica.send({ logs: logs(2, 1) })
  proxy.setAway(true)
  for (const ask of [
    () => replica.get('/telemetry/snapshot'),
    () => replica.post('/telemetry/snapshot'),
    () => replica.get('/telemetry/snapshots'),
    () => replica.get(`/telemetry/snapshots/${randomUUID()}`),
    () => replica.get('/telemetry/replicas'),
  ]) {
    const response = await ask()
    t.equal(response.status, 503)
    t.equal(response.headers.get('retry-after'), '1')
    t.hasStrict(await response.json(), { statusCode: 503, code: 'DATABASE_UNAVAILABLE' })
  }
  t.equal((await replica.send({ logs: logs(1, 0) })).status, 202, 'while ingest goes on')
  proxy.setAway(false)
  t.hasStrict(await (await replica.post('/telemetry/snapshot')).json(), {
    allowed_requests: 3,
    denied_requests: 1,
  })
})
