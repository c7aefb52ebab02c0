// Through PgBouncer everything works as without it: no statement relies on its session or on startup parameters.

import { sql as drizzleSql } from 'drizzle-orm'
import postgres from 'postgres'
import t from 'tap'
import { connectDatabase } from '../../src/database/client.js'
import { testDatabase } from '../helpers/database.js'
import { hasPgbouncer, startPgbouncer } from '../helpers/pgbouncer.js'
import { json, logs, startReplica } from '../helpers/replica.js'

const skip = hasPgbouncer() ? false : 'pgbouncer is not installed'

for (const mode of ['session', 'transaction'] as const) {
  t.test(
    `replicas migrate, count, flush and report through a pooler in ${mode} mode`,
    { skip },
    async (t) => {
      const { url, sql } = await testDatabase(t, { unmigrated: true })
      const pooled = await startPgbouncer(t, url, mode)
      const replicas = await Promise.all(
        ['memory', 'memory', 'durable'].map((ACK) =>
          startReplica(t, pooled, {
            ACK,
            DATABASE_TRANSACTION_POOLING: String(mode === 'transaction'),
            FLUSH_INTERVAL_MS: '10',
            SNAPSHOT_INTERVAL_MS: '1000',
          }),
        ),
      )
      // In transaction mode there are more clients than sessions, so every client meets sessions that others have used.
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
      const { snapshots } = await json<{ snapshots: unknown[] }>(first.get('/telemetry/snapshots?limit=1'))
      t.equal(snapshots.length, 1)
      const [sessions] = await sql`select count(*)::int as n from pg_stat_activity
      where datname = current_database() and application_name = 'boundary-usage'`
      t.ok(sessions?.n <= (mode === 'session' ? 20 : 2), 'all by way of the pooler')
    },
  )

  t.test(`in ${mode} mode timeouts and formats are set, and nobody else's`, { skip }, async (t) => {
    const { url, sql } = await testDatabase(t, { altered: true })
    const [{ name } = { name: '' }] = await sql`select current_database() as name`
    await sql`alter database ${sql(name)} set DateStyle = 'German'`
    await sql`alter database ${sql(name)} set statement_timeout = '1h'`
    const pooled = await startPgbouncer(t, url, mode)
    const database = connectDatabase({ target: { url: pooled }, poolMax: 1 })
    t.teardown(() => database.close())
    const read = drizzleSql`select current_setting('statement_timeout') as statement,
      current_setting('lock_timeout') as lock, current_setting('DateStyle') as dates,
      current_setting('idle_in_transaction_session_timeout') as idle`
    const ours = { statement: '10s', lock: '5s', dates: 'ISO, MDY', idle: '10s' }
    const [alone] = await database.run((db) => db.execute(read))
    const [inTransaction] = await database.run((db) => db.transaction((tx) => tx.execute(read)))
    t.strictSame({ ...alone }, ours)
    t.strictSame({ ...inTransaction }, ours)

    const other = postgres(pooled, { max: 1, prepare: false })
    t.teardown(() => other.end())
    const [theirs] = await other`select current_setting('statement_timeout') as statement`
    t.strictSame({ ...theirs }, { statement: '1h' })
  })
}
