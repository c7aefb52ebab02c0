// Delivery to a real receiver that verifies signatures, refuses, hangs and dies.

import { setTimeout as sleep } from 'node:timers/promises'
import type postgres from 'postgres'
import t, { type Test } from 'tap'
import { attemptDelivery, parseRetryAfter, type Sink } from '../../src/delivery/sink.js'
import type { Snapshot } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { collectGarbage } from '../helpers/garbage.js'
import { startProcess } from '../helpers/process.js'
import { json, logs, type Replica, startReplica } from '../helpers/replica.js'
import { type SinkServer, startSink } from '../helpers/sink.js'

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

/** The delivery as the API shows it, once it is as `is` says. */
async function delivery(
  replica: Pick<Replica, 'get'>,
  id: string,
  is: (delivery: NonNullable<Recorded['delivery']>) => boolean,
): Promise<NonNullable<Recorded['delivery']>> {
  for (;;) {
    const { delivery } = await json<Recorded>(replica.get(`/telemetry/snapshots/${id}`))
    if (!delivery) throw new Error('it is not to be delivered')
    if (is(delivery)) return delivery
    await sleep(10)
  }
}

/** The sink as the code under test addresses it. */
function sinkOf({ env }: SinkServer): Sink {
  return { url: env.SINK_URL, secret: env.SINK_SECRET }
}

/** As if all that is pending had waited long enough. */
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
  t.match({ attempts, due_at, error }, { attempts: 1, due_at: null, error: null })
  t.ok(delivered_at)
  t.strictSame(sink.deliveries, [{ id: taken.id, snapshot: taken }])
  t.equal(sink.forged, 0)
  const metrics = await (await replica.get('/metrics')).text()
  t.match(metrics, /^boundary_usage_deliveries_total\{result="delivered"\} 1$/m)
})

for (const [status, headers, least, most] of [
  [500, {}, 3_000, 5_000],
  [302, { location: 'http://127.0.0.1:1/' }, 3_000, 5_000],
  [429, { 'retry-after': '3600' }, 3_590_000, 3_600_000],
  [503, { 'retry-after': new Date(Date.now() + 7_200_000).toUTCString() }, 7_100_000, 7_200_000],
  [429, { 'retry-after': '99999999' }, 86_390_000, 86_400_000],
] as const)
  t.test(
    `${status} ${JSON.stringify(headers)}: it waits as long as it should, then comes again`,
    async (t) => {
      const { sink, sql, replica } = await setup(t)
      sink.answer((response) => response.writeHead(status, headers).end('not now'))
      const { id } = await json(replica.post('/telemetry/snapshot'))
      const failed = await delivery(replica, id, ({ error }) => error !== null)
      t.match(failed, { state: 'pending', attempts: 1, error: `status ${status}` })
      const wait = Date.parse(failed.due_at ?? '') - Date.now()
      t.ok(wait > least - 2_000 && wait <= most, `${wait} ms`)
      sink.answer((response) => response.writeHead(200).end())
      await timePasses(sql)
      replica.app.delivery.wake()
      t.match(await delivery(replica, id, ({ state }) => state === 'delivered'), { attempts: 2, error: null })
      t.strictSame(
        sink.deliveries.map((each) => each.id),
        [id, id],
        'under the same webhook-id',
      )
    },
  )

t.test('410 ends it, and a redelivery begins it again', async (t) => {
  const { sink, replica } = await setup(t)
  sink.answer((response) => response.writeHead(410).end())
  const { id } = await json(replica.post('/telemetry/snapshot'))
  t.match(await delivery(replica, id, ({ state }) => state === 'dead'), {
    attempts: 1,
    due_at: null,
    error: 'status 410',
  })
  sink.answer((response) => response.writeHead(200).end())
  const again = await replica.post(`/telemetry/snapshots/${id}/redeliver`)
  t.equal(again.status, 202)
  t.match(await again.json(), { id, delivery: { state: 'pending' } })
  t.match(await delivery(replica, id, ({ state }) => state === 'delivered'), { attempts: 31 })
})

t.test('a delivered snapshot is delivered again when asked for; an unknown one is 404', async (t) => {
  const { sink, replica } = await setup(t)
  const { id } = await json(replica.post('/telemetry/snapshot'))
  await delivery(replica, id, ({ state }) => state === 'delivered')
  await replica.post(`/telemetry/snapshots/${id}/redeliver`)
  await sink.until(2)
  t.equal((await replica.post(`/telemetry/snapshots/${crypto.randomUUID()}/redeliver`)).status, 404)
})

t.test('a sink that dies midway, or is not there, is tried again', async (t) => {
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

t.test('a sink that hangs holds up neither snapshots nor the shutdown', async (t) => {
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

t.test('a garbage collection stops no delivery that waits for its time', async (t) => {
  const { sink, sql, replica } = await setup(t)
  sink.answer((response) => response.writeHead(500).end())
  const { id } = await json(replica.post('/telemetry/snapshot'))
  await delivery(replica, id, ({ error }) => error !== null)
  sink.answer((response) => response.writeHead(200).end())
  await sql`update telemetry_snapshots set delivery_due_at = now() + interval '1 second'`
  replica.app.delivery.wake()
  const limit = performance.now() + 10_000
  while (sink.deliveries.length < 2 && performance.now() < limit) {
    await collectGarbage()
    await sleep(20)
  }
  await sink.until(2)
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

t.test('a replica killed in the middle of a delivery: another delivers, and none is skipped', async (t) => {
  const sink = await startSink(t)
  const { url, sql } = await testDatabase(t)
  const ids = []
  for (let round = 0; round < 3; round++) {
    const doomed = await startProcess(t, { DATABASE_URL: url, ...sink.env })
    // Killed while the sink has the request, or just after it has answered.
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
  t.equal(claimed?.n, 0, 'what a replica has taken on is left to it for a while')
  await timePasses(sql)
  sink.answer((response) => response.writeHead(200).end())
  const replica = await startReplica(t, url, sink.env)
  for (const id of ids) await delivery(replica, String(id), ({ state }) => state === 'delivered')
  const [left] =
    await sql`select count(*)::int as n from telemetry_snapshots where delivery_state <> 'delivered'`
  t.equal(left?.n, 0)
})

t.test('ten replicas deliver each snapshot once', async (t) => {
  const { sink, url, sql, replica } = await setup(t)
  sink.answer((response) => response.writeHead(500).end())
  const ids = new Set<string>()
  for (let n = 0; n < 20; n++) ids.add((await json(replica.post('/telemetry/snapshot'))).id)
  await sink.until(20)
  for (const id of ids) await delivery(replica, id, ({ error }) => error !== null)
  sink.answer((response) => response.writeHead(200).end())
  const others = await Promise.all(Array.from({ length: 9 }, () => startReplica(t, url, sink.env)))
  await timePasses(sql)
  for (const each of [replica, ...others]) each.app.delivery.wake()
  for (const id of ids) await delivery(replica, id, ({ state }) => state === 'delivered')
  t.equal(sink.deliveries.length, 40)
  t.strictSame(new Set(sink.deliveries.slice(20).map(({ id }) => id)), ids)
})

t.test('after thirty attempts it is given up', async (t) => {
  const { sink, sql, replica } = await setup(t)
  sink.answer((response) => response.writeHead(500).end())
  const { id } = await json(replica.post('/telemetry/snapshot'))
  await delivery(replica, id, ({ error }) => error !== null)
  await sql`update telemetry_snapshots set delivery_attempts = 28`
  for (const state of ['pending', 'dead']) {
    await timePasses(sql)
    const { attempts } = await delivery(replica, id, () => true)
    replica.app.delivery.wake()
    t.equal(
      (
        await delivery(
          replica,
          id,
          (now) => now.attempts > attempts && (now.state === 'dead' || now.due_at !== null),
        )
      ).attempts,
      attempts + 1,
    )
    t.equal((await delivery(replica, id, (now) => now.state === state)).state, state)
  }
  await replica.post(`/telemetry/snapshots/${id}/redeliver`)
  // Due sooner than the attempt's lease would end: it has failed and waits as after a first one.
  const isSoon = (due: string | null) => due !== null && Date.parse(due) - Date.now() < 30_000
  const again = await delivery(
    replica,
    id,
    (now) => now.state === 'dead' || (now.attempts === 31 && isSoon(now.due_at)),
  )
  t.equal(again.state, 'pending', 'a redelivery begins as many again')
})

/** Makes a process write every connection that it opens to stderr. */
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
      t.match(await json<Recorded>(service.get(`/telemetry/snapshots/${taken.id}`)), { delivery: null })
      const refused = await service.post(`/telemetry/snapshots/${taken.id}/redeliver`)
      t.equal(refused.status, 400)
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

t.test('Retry-After in either form', async (t) => {
  const now = new Date('2026-01-01T00:00:00Z')
  t.equal(parseRetryAfter('120', now), 120_000)
  t.equal(parseRetryAfter('Thu, 01 Jan 2026 00:01:00 GMT', now), 60_000)
  t.equal(parseRetryAfter('Wed, 31 Dec 2025 00:00:00 GMT', now), 0)
  t.equal(parseRetryAfter('soon', now), undefined)
  t.equal(parseRetryAfter(null, now), undefined)
})
