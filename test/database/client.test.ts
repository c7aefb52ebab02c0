// A replica's connections: flushes never wait for reads, a deadline ends one connection, and unused ones are closed.

import { sql as drizzleSql } from 'drizzle-orm'
import t from 'tap'
import { connectDatabase, type Db } from '../../src/database/client.js'
import { MAX_WAITING_REQUESTS, QueueFullError, Slots } from '../../src/database/slots.js'
import { testDatabase } from '../helpers/database.js'
import { startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

const sleep = (seconds: number) => (db: Db) => db.execute(drizzleSql`select pg_sleep(${seconds})`)

t.test(
  'forty reads that the database delays do not delay a batch, and the database counts as available',
  async (t) => {
    const { url, sql } = await testDatabase(t)
    const replica = await startReplica(t, url, { ACK: 'durable' }, { requestWaitMs: 300 })
    await sql.begin(async (tx) => {
      await tx`lock table telemetry_snapshots in access exclusive mode`
      const reads = Array.from({ length: 40 }, () => replica.get('/telemetry/usage'))
      const statuses: number[] = []
      for (let n = 0; n < 20; n++) statuses.push((await replica.send()).status)
      t.strictSame(statuses, Array(20).fill(202))
      const refusals: string[] = []
      for (const read of reads)
        void read.then(async (response) => {
          const { code } = (await response.json()) as { code: string }
          refusals.push(`${response.status} ${code}, Retry-After: ${response.headers.get('retry-after')}`)
        })
      // Of the four connections, one is for flushes, and one for what the replica does by itself.
      await until(() => refusals.length === 38, { what: 'the refusal of all reads but two' })
      t.strictSame(new Set(refusals), new Set(['503 DATABASE_QUEUE_FULL, Retry-After: 1']))
      t.equal(replica.app.database.up, true)
    })
    await until(async () => (await replica.get('/telemetry/usage')).status === 200, { what: 'a read' })
  },
)

t.test('a deadline counts from when the work begins, and ends that work alone', async (t) => {
  const { url } = await testDatabase(t)
  const database = connectDatabase({ target: { url }, poolMax: 3 })
  t.teardown(() => database.close())
  const patient = database.run(sleep(0.6))
  const late = database.run(sleep(10), { deadlineMs: 200 })
  const waiting = [1, 2, 3].map(() => database.run(sleep(0.2), { deadlineMs: 500 }))
  await t.rejects(late, { name: 'DatabaseUnavailableError', message: /no answer within 200 ms/ })
  await t.resolves(patient, 'on its own connection')
  await t.resolves(Promise.all(waiting), 'however long they waited')
})

t.test('connections are closed when unused, except the one of flushes', async (t) => {
  const { url, sql } = await testDatabase(t)
  const database = connectDatabase({ target: { url }, poolMax: 4, timing: { idleConnectionMs: 50 } })
  t.teardown(() => database.close())
  const open = async () => {
    const [row] = await sql<{ n: number }[]>`select count(*)::int as n from pg_stat_activity
      where datname = current_database() and application_name = 'boundary-usage'`
    return row?.n
  }
  for (let round = 0; round < 3; round++) {
    const works = [1, 2, 3].map(() => database.run(sleep(0.3)))
    const flush = database.run(sleep(0.3), { lane: 'flush' })
    await until(async () => (await open()) === 4, { what: 'four connections' })
    await Promise.all([...works, flush])
    await until(async () => (await open()) === 1, { what: 'one connection' })
  }
})

t.test('flushes come first, then work of the replica itself, then requests', async (t) => {
  for (const [count, lanes] of [
    [1, { flush: [0], background: [0], request: [0] }],
    [2, { flush: [0], background: [1], request: [1] }],
    [3, { flush: [0], background: [1, 2], request: [1] }],
    [4, { flush: [0], background: [1, 2, 3], request: [1, 2] }],
  ] as const)
    for (const lane of ['flush', 'background', 'request'] as const) {
      const slots = new Slots(count, 1_000)
      const taken = []
      for (const slot of lanes[lane]) taken.push([await slots.take(lane), slot])
      t.strictSame(
        taken.map(([slot]) => slot),
        lanes[lane],
        `${lane} of ${count}`,
      )
    }

  const slots = new Slots(1, 60_000)
  const order: string[] = []
  const slot = await slots.take('request')
  const works = (['request', 'background', 'flush', 'request'] as const).map(async (lane) => {
    const taken = await slots.take(lane)
    order.push(lane)
    slots.give(taken)
  })
  slots.give(slot)
  await Promise.all(works)
  t.strictSame(order, ['flush', 'background', 'request', 'request'])
})

t.test('the number of waiting requests is limited, and so is the time that they wait', async (t) => {
  const slots = new Slots(1, 50)
  const slot = await slots.take('flush')
  const waiting = Array.from({ length: MAX_WAITING_REQUESTS }, () => slots.take('request'))
  await t.rejects(slots.take('request'), QueueFullError)
  const results = await Promise.allSettled(waiting)
  t.ok(results.every(({ status }) => status === 'rejected'))
  slots.give(slot)
  t.equal(await slots.take('request'), 0, 'what gave up takes nothing')
})
