// ACK=durable: what was acknowledged is in the database, whatever happens to the process.

import { setImmediate as nextTurn } from 'node:timers/promises'
import t from 'tap'
import { CommitTimeoutError, Flusher } from '../../src/counting/flusher.js'
import { testDatabase } from '../helpers/database.js'
import { startProcess } from '../helpers/process.js'
import { logs, startReplica } from '../helpers/replica.js'
import { newTracker } from '../helpers/tracker.js'
import { until } from '../helpers/until.js'
import { startProxy, type Verdict } from './proxy.js'

const durable = { ACK: 'durable' }

t.test('a batch is acknowledged once it is committed, and not before', async (t) => {
  const { url, sql } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const replica = await startReplica(t, proxy.through(url), durable)
  let letGo = () => {}
  const held = new Promise<void>((resolve) => {
    // Holds the statement before it reaches the server.
    proxy.judge(async ({ from, type, bytes }): Promise<Verdict> => {
      if (from === 'client' && type === 'P' && bytes.includes('with held')) {
        resolve()
        await new Promise<void>((go) => {
          letGo = go
        })
      }
      return 'pass'
    })
  })
  let isAnswered = false
  const sending = replica.send({ logs: logs(2, 1) }).then((response) => {
    isAnswered = true
    return response
  })
  await held
  t.equal(isAnswered, false)
  proxy.judge(() => 'pass')
  letGo()
  t.equal((await sending).status, 202)
  const [row] = await sql`select allowed_requests, denied_requests from boundary_usage_stats`
  t.strictSame({ ...row }, { allowed_requests: '2', denied_requests: '1' })
})

t.test('batches that wait share a flush', async (t) => {
  const { url, sql } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const replica = await startReplica(t, proxy.through(url), durable)
  const { tracker } = replica.app.counting
  proxy.judge(async ({ from }): Promise<Verdict> => {
    // The first flush does not get through until all batches are tracked.
    while (from === 'client' && tracker.pendingSeq === 2 && tracker.unflushed.allowed < 100) await nextTurn()
    return 'pass'
  })
  const responses = await Promise.all(Array.from({ length: 100 }, () => replica.send()))
  t.ok(responses.every((response) => response.status === 202))
  const [stats] = await sql`select allowed_requests from boundary_usage_stats`
  t.equal(stats?.allowed_requests, '100')
  const [fence] = await sql`select last_flush_seq::int from boundary_usage_replicas`
  t.equal(fence?.last_flush_seq, 2)
})

t.test(
  'while the database is unavailable, batches are refused before they are tracked, and tracked ones are kept',
  async (t) => {
    const { url } = await testDatabase(t)
    const proxy = await startProxy(t, Number(new URL(url).port))
    const replica = await startReplica(t, proxy.through(url), durable)
    proxy.setAway(true)
    const first = replica.send({ logs: logs(3, 0) }) // finds out
    await until(async () => (await replica.get('/-/ready')).status === 503, {
      what: 'the replica to be unready',
    })
    const { unflushed } = replica.app.counting.tracker
    for (let n = 0; n < 5; n++) {
      const response = await replica.send({ logs: logs(1, 1) })
      t.equal(response.status, 503)
      t.equal(response.headers.get('retry-after'), '1')
    }
    t.strictSame(replica.app.counting.tracker.unflushed, unflushed)
    proxy.setAway(false)
    t.equal((await first).status, 202, 'the one that waited is told when it is committed')
    t.equal((await replica.send({ logs: logs(4, 0) })).status, 202)
    t.hasStrict(await (await replica.get('/telemetry/snapshot')).json(), {
      allowed_requests: 7,
      denied_requests: 0,
    })
  },
)

t.test('a batch whose commit does not come in time is 504, and is counted once all the same', async (t) => {
  const { url } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const replica = await startReplica(t, proxy.through(url), durable, { commitDeadlineMs: 300 })
  proxy.setAway(true)
  const response = await replica.send({ logs: logs(3, 0) })
  t.equal(response.status, 504)
  t.match(await response.json(), {
    statusCode: 504,
    code: 'OUTCOME_UNKNOWN',
    message: /a retry counts once only with a session_id/,
  })
  proxy.setAway(false)
  t.hasStrict(await (await replica.get('/telemetry/snapshot')).json(), { allowed_requests: 3 })
})

t.test('a waiter is rejected once, at the deadline, and the next batch gets its own waiter', async (t) => {
  const tracker = newTracker()
  const flusher = new Flusher({ tracker, apply: () => new Promise(() => {}) })
  tracker.track('w', 'o', 1, 0)
  const waiting = [flusher.commit(20), flusher.commit(60_000)]
  for (const each of waiting) await t.rejects(each, CommitTimeoutError)
  const next = flusher.commit(20)
  t.not(next, waiting[0])
  await t.rejects(next, CommitTimeoutError)
})

t.test('requests that wait for a commit are answered when the replica is told to end', async (t) => {
  const { url, sql } = await testDatabase(t)
  const replica = await startProcess(t, { DATABASE_URL: url, ...durable })
  const sending = Array.from({ length: 50 }, () => replica.send())
  await Promise.race(sending)
  replica.signal('SIGTERM')
  const answers = await Promise.all(sending.map((each) => each.catch(() => undefined)))
  t.strictSame(await replica.exited, { code: 0, signal: null })
  const acknowledged = answers.filter((response) => response?.status === 202).length
  const [row] = await sql`select allowed_requests::int as allowed from boundary_usage_stats`
  t.equal(row?.allowed, acknowledged)
})

t.test('a replica killed at any moment loses no batch that was acknowledged', async (t) => {
  const { url, sql } = await testDatabase(t)
  let acknowledged = 0
  let unknown = 0
  for (const answersBefore of [1, 8, 20, 60]) {
    const replica = await startProcess(t, { DATABASE_URL: url, ...durable })
    let answers = 0
    // With other batches under way.
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for (;;) {
          const response = await replica.send().catch(() => undefined)
          if (response?.status !== 202) {
            unknown++
            return
          }
          acknowledged++
          if (++answers === answersBefore) replica.signal('SIGKILL')
        }
      }),
    )
    await replica.exited
  }
  const [row] = await sql`select sum(allowed_requests)::int as allowed from boundary_usage_stats`
  t.ok(row?.allowed >= acknowledged, `${acknowledged} acknowledged, ${row?.allowed} counted`)
  t.ok(row?.allowed <= acknowledged + unknown, `${unknown} without an answer`)
})
