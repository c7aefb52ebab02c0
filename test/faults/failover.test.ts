// A failover: the primary dies under load, its synchronous standby takes over, and every count goes on.

import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t from 'tap'
import { startPair } from '../helpers/postgres.js'
import { logs, type Replica, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

t.test('nothing is lost and nothing counted twice when a standby takes over under load', async (t) => {
  const { primary, standby } = await startPair()
  t.teardown(() => Promise.all([primary.remove(), standby.remove()]))
  // The standby comes first, so the service has to find out which server is the primary.
  const url = primary.url.replace('127.0.0.1:', `127.0.0.1:${standby.port},127.0.0.1:`)
  const replicas = await Promise.all(
    ['memory', 'memory', 'durable'].map((ACK) =>
      startReplica(t, url, { ACK, FLUSH_INTERVAL_MS: '20', SNAPSHOT_INTERVAL_MS: '1000' }),
    ),
  )

  const sent = { counted: 0, afterwards: 0 }
  const stop = new AbortController()
  let hasMoved = false
  const agents = replicas.flatMap((replica) => [agent(replica), agent(replica), admin(replica)])
  await untilGrown(1_000)

  await primary.stop('immediate')
  await standby.promote()
  const sql = postgres(standby.url, { max: 1 })
  t.teardown(() => sql.end({ timeout: 1 }))
  hasMoved = true
  const before = sent.counted
  await untilGrown(1_000)
  stop.abort()
  await Promise.all(agents)
  t.ok(sent.afterwards > 0, 'a durable replica commits again')

  for (const { app } of replicas) await app.counting.flush()
  const [row] = await sql`select
    coalesce((select sum(allowed_requests) from telemetry_snapshots), 0)::int
    + coalesce((select sum(allowed_requests) from boundary_usage_stats), 0)::int as allowed,
    (select count(*)::int from telemetry_snapshots) as snapshots,
    (select count(*)::int from telemetry_snapshots a where not exists (select from telemetry_snapshots b
      where b.period_end = a.period_start)) as firsts`
  t.equal(row?.allowed, sent.counted, `${before} before, ${row?.snapshots} snapshots`)
  t.equal(row?.firsts, 1, 'periods tile time across the failover')

  async function untilGrown(by: number): Promise<void> {
    const start = sent.counted
    await until(() => sent.counted >= start + by, { what: `${by} more requests to be accepted` })
  }

  async function agent(replica: Replica): Promise<void> {
    while (!stop.signal.aborted) {
      const { status } = await replica.send({ logs: logs(3, 0) })
      // A batch with 504 is counted too, once the database is available again.
      if (status === 202 || status === 504) sent.counted += 3
      else if (status !== 503) throw new Error(`status ${status}`)
      if (status === 202 && hasMoved && replica === replicas[2]) sent.afterwards++
      if (status === 503) await sleep(20)
    }
  }

  async function admin(replica: Replica): Promise<void> {
    while (!stop.signal.aborted) {
      const { status } = await replica.post('/telemetry/snapshot')
      if (![200, 409, 503].includes(status)) throw new Error(`status ${status}`)
      await sleep(50)
    }
  }
})
