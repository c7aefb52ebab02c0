// Delivery to a real receiver that verifies signatures, rejects, hangs and disconnects.

import type postgres from 'postgres'
import t, { type Test } from 'tap'
import { claimDelivery, recordDelivery, redeliver } from '../../src/delivery/queue.js'
import { attemptDelivery, parseRetryAfter, type Sink } from '../../src/delivery/sink.js'
import { findSnapshot } from '../../src/snapshots/history.js'
import type { Snapshot } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { collectGarbage } from '../helpers/garbage.js'
import { recordSnapshot } from '../helpers/history.js'
import { freePort } from '../helpers/postgres.js'
import { startProcess } from '../helpers/process.js'
import { json, logs, type Replica, startReplica } from '../helpers/replica.js'
import { type SinkServer, startSink } from '../helpers/sink.js'
import { until } from '../helpers/until.js'

const SECRET = `whsec_${Buffer.alloc(24).toString('base64')}`

interface Recorded {
  delivery: {
    state: string
    attempts: number
    due_at: string | null
    delivered_at: string | null
    error: string | null
  } | null
}

async function setup(t: Test) {
  const sink = await startSink(t)
  const { url, sql } = await testDatabase(t)
  const replica = await startReplica(t, url, sink.env)
  return { sink, url, sql, replica }
}

/** The delivery as the API shows it, once it satisfies `is`. */
async function delivery(
  replica: Pick<Replica, 'get'>,
  id: string,
  is: (delivery: NonNullable<Recorded['delivery']>) => boolean,
): Promise<NonNullable<Recorded['delivery']>> {
  return until(
    async () => {
      const { delivery } = await json<Recorded>(replica.get(`/telemetry/snapshots/${id}`))
      if (!delivery) throw new Error('the snapshot has no delivery')
      return is(delivery) && delivery
    },
    { what: `the delivery of ${id}: ${is}` },
  )
}

/** The sink as the code under test addresses it. */
function sinkOf({ env }: SinkServer): Sink {
  return { url: env.SINK_URL, secrets: [env.SINK_SECRET] }
}

/** Makes all pending deliveries due. */
async function timePasses(sql: postgres.Sql): Promise<void> {
  await sql`update telemetry_snapshots set delivery_due_at = now() where delivery_state = 'pending'`
}

t.test('a snapshot is delivered once, signed, as the API shows it', async (t) => {
  const { sink, replica } = await setup(t)
  await replica.send({ logs: logs(6, 4) })
  const taken = await json(replica.post('/telemetry/snapshot'))
  const { attempts, due_at, delivered_at, error } = await delivery(
    replica,
    taken.id,
    ({ state }) => state === 'delivered',
  )
  t.strictSame({ attempts, due_at, error }, { attempts: 1, due_at: null, error: null })
  t.ok(delivered_at)
  t.strictSame(sink.deliveries, [{ id: taken.id, snapshot: taken }])
  t.equal(sink.forged, 0)
  const metrics = await (await replica.get('/metrics')).text()
  t.match(metrics, /^boundary_usage_deliveries_total\{result="delivered"\} 1$/m)
})

t.test(
  'a failed attempt is repeated after the backoff, or later if Retry-After is valid and longer',
  async (t) => {
    const { sink, sql, replica } = await setup(t)
    const inTwoHours = new Date(Date.now() + 7_200_000).toUTCString()
    const ids = []
    for (const [status, headers, least, most] of [
      [500, {}, 2_500, 5_000],
      [302, { location: 'http://127.0.0.1:1/' }, 2_500, 5_000],
      [429, { 'retry-after': '0' }, 2_500, 5_000],
      [429, { 'retry-after': '1' }, 2_500, 5_000],
      [429, { 'retry-after': '1.5' }, 2_500, 5_000],
      [429, { 'retry-after': 'Sun, 06 Nov 1994 08:49:37 GMT' }, 2_500, 5_000],
      [429, { 'retry-after': '3600' }, 3_600_000, 3_600_000],
      [503, { 'retry-after': inTwoHours }, Date.parse(inTwoHours) - Date.now() - 60_000, 7_200_000],
      [429, { 'retry-after': '99999999' }, 86_400_000, 86_400_000],
    ] as const) {
      sink.answer((response) => response.writeHead(status, headers).end('not now'))
      const start = Date.now()
      const { id } = await json(replica.post('/telemetry/snapshot'))
      const { due_at, ...failed } = await delivery(replica, id, ({ error }) => error !== null)
      t.strictSame(failed, { state: 'pending', attempts: 1, delivered_at: null, error: `status ${status}` })
      const due = Date.parse(due_at ?? '')
      t.ok(due >= start + least && due <= Date.now() + most, `${JSON.stringify(headers)}: ${due - start} ms`)
      ids.push(id)
      // On a busy machine, the backoff would end before the last of them has failed.
      await sql`update telemetry_snapshots set delivery_due_at = now() + interval '1 day' where id = ${id}`
    }
    sink.answer((response) => response.writeHead(200).end())
    await timePasses(sql)
    replica.app.delivery.wake()
    for (const id of ids) {
      const { attempts, error } = await delivery(replica, id, ({ state }) => state === 'delivered')
      t.strictSame({ attempts, error }, { attempts: 2, error: null })
    }
    const delivered = sink.deliveries.map((each) => each.id)
    t.strictSame(delivered.slice(0, ids.length), ids)
    t.strictSame(new Set(delivered.slice(ids.length)), new Set(ids), 'with the same webhook-id')
    t.equal(delivered.length, 2 * ids.length)
  },
)

t.test('during a rotation a delivery is signed with both secrets', async (t) => {
  const sink = await startSink(t)
  const { url } = await testDatabase(t)
  const other = `whsec_${Buffer.alloc(24, 6).toString('base64')}`
  for (const secrets of [`${other} ${sink.env.SINK_SECRET}`, `${sink.env.SINK_SECRET},${other}`]) {
    const replica = await startReplica(t, url, { ...sink.env, SINK_SECRET: secrets })
    const { id } = await json(replica.post('/telemetry/snapshot'))
    await delivery(replica, id, ({ state }) => state === 'delivered')
    t.equal(sink.deliveries.at(-1)?.id, id)
    await replica.app.close()
  }
  t.equal(sink.forged, 0)
})

t.test('410 ends the attempts, and a redelivery starts them again', async (t) => {
  const { sink, replica } = await setup(t)
  sink.answer((response) => response.writeHead(410).end())
  const { id } = await json(replica.post('/telemetry/snapshot'))
  t.strictSame(await delivery(replica, id, ({ state }) => state === 'dead'), {
    state: 'dead',
    attempts: 1,
    due_at: null,
    delivered_at: null,
    error: 'status 410',
  })
  sink.answer((response) => response.writeHead(200).end())
  const again = await replica.post(`/telemetry/snapshots/${id}/redeliver`)
  t.equal(again.status, 202)
  t.hasStrict(await again.json(), {
    id,
    delivery: { state: 'pending', attempts: 0, delivered_at: null, error: null },
  })
  t.equal((await delivery(replica, id, ({ state }) => state === 'delivered')).attempts, 1)
})

t.test('a redelivery delivers a delivered snapshot again, and is 404 for an unknown one', async (t) => {
  const { sink, replica } = await setup(t)
  const { id } = await json(replica.post('/telemetry/snapshot'))
  await delivery(replica, id, ({ state }) => state === 'delivered')
  await replica.post(`/telemetry/snapshots/${id}/redeliver`)
  await sink.until(2)
  t.equal((await replica.post(`/telemetry/snapshots/${crypto.randomUUID()}/redeliver`)).status, 404)
})

t.test('a delivery to a sink that disconnects is retried', async (t) => {
  const { sink, sql, replica } = await setup(t)
  sink.answer((_response, request) => request.socket.destroy())
  const { id } = await json(replica.post('/telemetry/snapshot'))
  t.match(await delivery(replica, id, ({ error }) => error !== null), {
    state: 'pending',
    error: /^no answer: [A-Z_]+$/,
  })
  sink.answer((response) => response.writeHead(200).end())
  await timePasses(sql)
  replica.app.delivery.wake()
  await delivery(replica, id, ({ state }) => state === 'delivered')
})

t.test('a sink that hangs delays neither snapshots nor the shutdown', async (t) => {
  const sink = await startSink(t)
  const { url } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url, ...sink.env })
  sink.answer(() => {})
  await service.post('/telemetry/snapshot')
  await sink.until(1)
  t.equal((await service.post('/telemetry/snapshot')).status, 200)
  service.signal('SIGTERM')
  t.strictSame(await service.exited, { code: 0, signal: null })
})

t.test('a garbage collection stops no pending delivery', async (t) => {
  const { sink, sql, replica } = await setup(t)
  sink.answer((response) => response.writeHead(500).end())
  const { id } = await json(replica.post('/telemetry/snapshot'))
  await delivery(replica, id, ({ error }) => error !== null)
  sink.answer((response) => response.writeHead(200).end())
  await sql`update telemetry_snapshots set delivery_due_at = now() + interval '1 second'`
  replica.app.delivery.wake()
  await until(() => collectGarbage().then(() => sink.deliveries.length === 2), { what: 'the second attempt' })
  await delivery(replica, id, ({ state }) => state === 'delivered')
})

t.test('a garbage collection does not stop the timeout of an attempt', async (t) => {
  const { sink, replica } = await setup(t)
  const snapshot = await json<Snapshot>(replica.post('/telemetry/snapshot'))
  sink.answer(() => {})
  const { signal } = new AbortController()
  const attempt = attemptDelivery(sinkOf(sink), snapshot, signal, 500)
  await sink.until(2)
  await collectGarbage()
  t.strictSame(await attempt, { result: 'failed', error: 'no answer within 500 ms' })
})

t.test('if a replica is killed during a delivery, another one delivers the snapshot', async (t) => {
  const sink = await startSink(t)
  const { url, sql } = await testDatabase(t)
  const ids = []
  for (let round = 0; round < 3; round++) {
    const doomed = await startProcess(t, { DATABASE_URL: url, ...sink.env })
    // Killed while the sink has the request, or just after its response.
    sink.answer((response) => {
      if (round === 2) response.writeHead(200).end()
      doomed.signal('SIGKILL')
    })
    const before = sink.deliveries.length
    const response = await doomed.post('/telemetry/snapshot').catch(() => undefined)
    await sink.until(before + 1)
    ids.push(sink.deliveries.at(-1)?.id)
    await response?.body?.cancel()
    await doomed.exited
  }
  const [claimed] = await sql`select count(*)::int as n from telemetry_snapshots
    where delivery_state = 'pending' and delivery_due_at <= now()`
  t.equal(claimed?.n, 0, 'other replicas leave a claimed delivery alone until its lease ends')
  await timePasses(sql)
  sink.answer((response) => response.writeHead(200).end())
  const replica = await startReplica(t, url, sink.env)
  for (const id of ids) await delivery(replica, String(id), ({ state }) => state === 'delivered')
  const [left] =
    await sql`select count(*)::int as n from telemetry_snapshots where delivery_state <> 'delivered'`
  t.equal(left?.n, 0)
})

t.test('ten replicas deliver each snapshot once', async (t) => {
  const sink = await startSink(t)
  const { url, sql } = await testDatabase(t)
  for (let day = 1; day <= 20; day++)
    await recordSnapshot(sql, `2026-01-${String(day).padStart(2, '0')}T12:00:00Z`, [])
  const pending = await sql<{ id: string }[]>`update telemetry_snapshots
    set delivery_state = 'pending', delivery_due_at = now() + interval '1 hour' returning id`
  const replicas = await Promise.all(Array.from({ length: 10 }, () => startReplica(t, url, sink.env)))
  await timePasses(sql)
  for (const { app } of replicas) app.delivery.wake()
  const [first] = replicas
  if (!first) throw new Error('no replica')
  for (const { id } of pending) await delivery(first, id, ({ state }) => state === 'delivered')
  t.strictSame(sink.deliveries.map(({ id }) => id).sort(), pending.map(({ id }) => id).sort())
})

t.test('after thirty attempts a delivery is given up', async (t) => {
  const { sink, sql, replica } = await setup(t)
  sink.answer((response) => response.writeHead(500).end())
  const { id } = await json(replica.post('/telemetry/snapshot'))
  await delivery(replica, id, ({ error }) => error !== null)
  await sql`update telemetry_snapshots set delivery_attempts = 28, delivery_due_at = now() + interval '1 day'`
  for (const [number, state] of [
    [29, 'pending'],
    [30, 'dead'],
  ] as const) {
    await timePasses(sql)
    replica.app.delivery.wake()
    const { attempts } = await delivery(
      replica,
      id,
      (now) => now.attempts >= number && now.state === state && (state === 'dead' || now.due_at !== null),
    )
    t.equal(attempts, number)
  }
  await replica.post(`/telemetry/snapshots/${id}/redeliver`)
  // The attempt has failed once the delivery is due sooner than its lease would end.
  const isSoon = (due: string | null) => due !== null && Date.parse(due) - Date.now() < 30_000
  const again = await delivery(
    replica,
    id,
    (now) => now.state === 'dead' || (now.error !== null && isSoon(now.due_at)),
  )
  const { state, attempts } = again
  t.strictSame(
    { state, attempts },
    { state: 'pending', attempts: 1 },
    'a redelivery starts as many attempts again',
  )
})

t.test('an attempt that a redelivery has replaced records nothing', async (t) => {
  const { url, database } = await testDatabase(t)
  // Nothing listens there, so the delivery stays pending when the replica is closed.
  const replica = await startReplica(t, url, {
    SINK_URL: `http://127.0.0.1:${await freePort()}`,
    SINK_SECRET: SECRET,
  })
  const { id } = await json(replica.post('/telemetry/snapshot'))
  await delivery(replica, id, ({ error }) => error !== null)
  await replica.app.close()
  const claim = async () => {
    await database.run((db) => redeliver(db, id))
    const claim = await database.run(claimDelivery)
    if (!claim) throw new Error('nothing is due')
    return claim
  }
  const replaced = await claim()
  const current = await claim()
  t.equal(replaced.attempt, 1)
  t.equal(current.attempt, 1)
  const state = () => database.run((db) => findSnapshot(db, id)).then((snapshot) => snapshot?.delivery)
  const before = await state()
  await database.run((db) => recordDelivery(db, replaced, { result: 'gone', error: 'status 410' }))
  t.strictSame(await state(), before)
  await database.run((db) => recordDelivery(db, current, { result: 'delivered' }))
  t.equal((await state())?.state, 'delivered')
})

/** Makes a process report every connection that it opens on stderr. */
const SPY = `data:text/javascript,${encodeURIComponent(`
  import { Socket } from 'node:net'
  const { connect } = Socket.prototype
  Socket.prototype.connect = function (...args) {
    process.stderr.write('connect ' + JSON.stringify(args) + '\\n')
    return connect.apply(this, args)
  }`)}`

t.test('without SINK_URL nothing leaves the machine', async (t) => {
  const sink = await startSink(t)
  const { url } = await testDatabase(t)
  for (const [env, leaves] of [
    [{}, false],
    [sink.env, true],
  ] as const) {
    const service = await startProcess(t, { DATABASE_URL: url, ...env }, { nodeOptions: ['--import', SPY] })
    await service.send()
    const taken = await json(service.post('/telemetry/snapshot'))
    if (leaves) await sink.until(1)
    else {
      t.hasStrict(await json<Recorded>(service.get(`/telemetry/snapshots/${taken.id}`)), { delivery: null })
      const refused = await service.post(`/telemetry/snapshots/${taken.id}/redeliver`)
      t.equal(refused.status, 409)
      t.match(await refused.json(), { code: 'NO_SINK', message: /SINK_URL is not set/ })
    }
    service.signal('SIGTERM')
    await service.exited
    const opened = service.stderr.split('\n').filter((line) => line.startsWith('connect '))
    const elsewhere = opened.filter((line) => !line.includes(new URL(url).port))
    t.ok(opened.length > 0, 'the database was reached')
    t.equal(elsewhere.length > 0, leaves, elsewhere.join())
  }
})

t.test('Retry-After is read in the forms of RFC 9110, and ignored in any other', async (t) => {
  const now = new Date('1994-11-06T08:48:37Z')
  for (const [value, expected] of [
    ['0', 0],
    ['120', 120_000],
    ['Sun, 06 Nov 1994 08:49:37 GMT', 60_000],
    ['Sunday, 06-Nov-94 08:49:37 GMT', 60_000],
    ['Sun Nov  6 08:49:37 1994', 60_000],
    ['Sat, 05 Nov 1994 08:49:37 GMT', 0],
    ['1.5', undefined],
    ['-1', undefined],
    ['+1', undefined],
    ['', undefined],
    ['soon', undefined],
    ['120, 60', undefined],
    ['2094', 2_094_000],
    ['1995-01-01', undefined],
    ['Sun, 06 Nov 1994 08:49:37', undefined],
    ['Sun, 06 Nov 1994 25:49:37 GMT', undefined],
  ] as const)
    t.equal(parseRetryAfter(value, now), expected, value)
  t.equal(parseRetryAfter(null, now), undefined)
})
