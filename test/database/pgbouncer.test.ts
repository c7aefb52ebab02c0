// Through PgBouncer in transaction mode everything works as without it: no statement relies on its session.

import t from 'tap'
import { testDatabase } from '../helpers/database.js'
import { hasPgbouncer, startPgbouncer } from '../helpers/pgbouncer.js'
import { json, logs, startReplica } from '../helpers/replica.js'

const skip = hasPgbouncer() ? false : 'pgbouncer is not installed'

t.test('replicas migrate, count, flush and report through a pooler', { skip }, async (t) => {
  const { url, sql } = await testDatabase(t, { unmigrated: true })
  const pooled = await startPgbouncer(t, url)
  const replicas = await Promise.all(
    ['memory', 'memory', 'durable'].map((ACK) =>
      startReplica(t, pooled, {
        ACK,
        DATABASE_TRANSACTION_POOLING: 'true',
        FLUSH_INTERVAL_MS: '10',
        SNAPSHOT_INTERVAL_MS: '1000',
      }),
    ),
  )
  // More clients than sessions, so that every one of them meets sessions that another has used.
  for (let round = 0; round < 20; round++) {
    const answers = await Promise.all([
      ...replicas.map((replica) => replica.send({ logs: logs(2, 1) })),
      ...replicas.map((replica) => replica.get('/telemetry/snapshot')),
      ...replicas.map((replica) => replica.post('/telemetry/snapshot')),
    ])
    for (const { status } of answers) t.ok([200, 202, 409].includes(status), String(status))
  }
  for (const replica of replicas) await replica.app.counting.flush()
  const [row] = await sql`select
    (select coalesce(sum(allowed_requests), 0) from telemetry_snapshots)::int
    + (select coalesce(sum(allowed_requests), 0) from boundary_usage_stats)::int as allowed`
  t.equal(row?.allowed, 20 * 3 * 2)
  const [first] = replicas
  if (!first) throw new Error('no replica')
  t.match(await json(first.get('/telemetry/snapshots?limit=1')), {
    snapshots: [{ trigger: /manual|schedule/ }],
  })
  const [sessions] = await sql`select count(*)::int as n from pg_stat_activity
    where datname = current_database() and application_name = 'boundary-usage'`
  t.ok(sessions?.n <= 2, 'all by way of the pooler')
})
