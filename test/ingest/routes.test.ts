// POST /boundary/logs, as agents that do it right meet it.

import { randomUUID } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { testDatabase, untilBlocked } from '../helpers/database.js'
import { allowedLog, batch, deniedLog, json, logs, startReplica } from '../helpers/replica.js'

t.test('logs are counted as allowed or denied; those without a known resource are skipped', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const response = await replica.send({
    logs: [...logs(3, 2), { allowed: true }, { allowed: false, dns_query: { name: 'example.com' } }],
  })
  t.equal(response.status, 202)
  t.strictSame(await response.json(), { allowed: 3, denied: 2, skipped: 2 })
  t.hasStrict(await json(replica.get('/telemetry/snapshot')), {
    unique_workspaces: 1,
    unique_users: 1,
    allowed_requests: 3,
    denied_requests: 2,
  })
})

t.test('a batch with nothing to count is accepted and tracks nobody', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  t.strictSame(await json<unknown>(replica.send({ logs: [] })), { allowed: 0, denied: 0, skipped: 0 })
  t.strictSame(await json<unknown>(replica.send({ logs: [{ allowed: true }] })), {
    allowed: 0,
    denied: 0,
    skipped: 1,
  })
  t.hasStrict(await json(replica.get('/telemetry/snapshot')), {
    replicas: 0,
    unique_workspaces: 0,
    unique_users: 0,
  })
})

t.test('every documented field is taken, and unknown ones are ignored', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const response = await replica.send({
    session_id: randomUUID(),
    confined_process_name: 'agent',
    later_field: { anything: [1] },
    logs: [
      {
        allowed: true,
        time: '2026-01-31T12:30:00.123456+01:00',
        sequence_number: 17,
        later_field: null,
        http_request: { method: 'GET', url: 'https://example.com/', matched_rule: 'any', later_field: true },
      },
    ],
  })
  t.equal(response.status, 202)
  t.strictSame(await response.json(), { allowed: 1, denied: 0, skipped: 0 })
})

t.test('an id is the same in upper and lower case', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const ids = { workspace_id: randomUUID(), owner_id: randomUUID() }
  const upper = { workspace_id: ids.workspace_id.toUpperCase(), owner_id: ids.owner_id.toUpperCase() }
  for (const each of [ids, upper]) t.equal((await replica.send(each)).status, 202)
  t.hasStrict(await json(replica.get('/telemetry/snapshot')), {
    unique_workspaces: 1,
    unique_users: 1,
    allowed_requests: 2,
  })
})

t.test('a body may be compressed with gzip', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const encoding of ['gzip', 'GZIP', 'x-gzip', 'identity']) {
    const plain = JSON.stringify(batch({ logs: [allowedLog, deniedLog] }))
    const response = await fetch(`${replica.url}/boundary/logs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'content-encoding': encoding },
      body: encoding === 'identity' ? plain : gzipSync(plain),
    })
    t.equal(response.status, 202, encoding)
    t.strictSame(await response.json(), { allowed: 1, denied: 1, skipped: 0 })
  }
})

t.test('no batch waits for a flush', async (t) => {
  const { url, sql } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const { counting } = replica.app
  await replica.send({ logs: logs(3, 2) })
  await counting.flush()
  await replica.send({ logs: logs(1, 1) })
  let flushing: Promise<void> | undefined
  await sql.begin(async (tx) => {
    await tx`select from boundary_usage_stats for update`
    flushing = counting.flush()
    await untilBlocked(sql)
    for (let n = 0; n < 20; n++) t.equal((await replica.send({ logs: logs(1, 0) })).status, 202)
    t.equal(counting.tracker.unsettled?.allowedRequests, 1, 'the flush waits all the while')
  })
  await flushing
  t.hasStrict(await json(replica.get('/telemetry/snapshot')), { allowed_requests: 24, denied_requests: 3 })
})

t.test('1,000 logs are one batch', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  t.strictSame(await json<unknown>(replica.send({ logs: logs(600, 400) })), {
    allowed: 600,
    denied: 400,
    skipped: 0,
  })
})
