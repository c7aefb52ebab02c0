// The driver when connections end unexpectedly: the reason for patches/.

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'
import postgres from 'postgres'
import t from 'tap'
import { applyFlush } from '../../src/counting/flush.js'
import { Flusher } from '../../src/counting/flusher.js'
import { connectDatabase, TemporaryDatabaseError } from '../../src/database/client.js'
import { TIMING } from '../../src/timing.js'
import { testDatabase } from '../helpers/database.js'
import { newTracker } from '../helpers/tracker.js'
import { startProxy } from './proxy.js'

t.test(
  'backends terminated while small queries are sent: the process lives and every count is right',
  async (t) => {
    const { url, sql } = await testDatabase(t)
    const database = connectDatabase({ target: { url }, poolMax: 4, timing: { ...TIMING, reconnectMs: 1 } })
    t.teardown(() => database.close())
    const replicas = Array.from({ length: 4 }, () => {
      const replica = { replicaId: randomUUID(), name: 'test', version: '0.0.0' }
      const tracker = newTracker()
      return {
        tracker,
        flusher: new Flusher({
          tracker,
          apply: (batch) => database.run((db) => applyFlush(db, replica, batch)),
        }),
      }
    })

    let kills = 0
    let sent = 0
    let failures = 0
    while (kills < 200) {
      const flushes = replicas.map(({ tracker, flusher }) => {
        tracker.track('w', 'o', 1, 0)
        sent++
        return flusher.flush().catch((error) => {
          if (!(error instanceof TemporaryDatabaseError)) throw error
          failures++
        })
      })
      const [killed] = await sql<{ n: number }[]>`select count(pg_terminate_backend(pid))::int as n
      from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
        and application_name = 'boundary-usage' and (random() < 0.5)`
      kills += killed?.n ?? 0
      await Promise.all(flushes)
    }
    await Promise.all(replicas.map(({ flusher }) => flusher.drain(30_000)))
    const [row] = await sql`select sum(allowed_requests)::int as allowed from boundary_usage_stats`
    t.equal(row?.allowed, sent)
    t.ok(failures > 0, `${kills} backends terminated, ${failures} flushes met one, ${sent} sent`)
  },
)

t.test(
  'a query on a connection that died in its transaction is rejected, and the process lives',
  async (t) => {
    const { url } = await testDatabase(t)
    const sql = postgres(url, { max: 1, onnotice: () => {} })
    t.teardown(() => sql.end({ timeout: 1 }))
    for (let n = 0; n < 20; n++) {
      const outcome = await new Promise<string>((resolve) => {
        sql
          .begin(async (tx) => {
            const [{ pid } = { pid: 0 }] = await tx<{ pid: number }[]>`select pg_backend_pid() as pid`
            const other = postgres(url, { max: 1 })
            await other`select pg_terminate_backend(${pid})`
            await other.end()
            await tx`select 1`.catch(() => {})
            // By now the pool has opened the connection again, for another query.
            await sql`select 1`
            resolve(
              await tx`select 2`.then(
                () => 'ran outside of its transaction',
                () => 'rejected',
              ),
            )
          })
          .catch(() => {}) // the transaction is lost
      })
      t.equal(outcome, 'rejected')
    }
    t.strictSame([...(await sql`select 3 as n`)], [{ n: 3 }])
  },
)

t.test(
  'a server that accepts connections and ends them is reported to the caller, without a storm of attempts',
  async (t) => {
    let accepted = 0
    const server = createServer((socket) => {
      accepted++
      socket.destroy()
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.teardown(() => server.close())
    const address = server.address()
    const port = typeof address === 'object' ? address?.port : 0
    for (const hosts of [`127.0.0.1:${port}`, `127.0.0.1:${port},localhost:${port},127.0.0.1:1`]) {
      accepted = 0
      const database = connectDatabase({ target: { url: `postgres://u:p@${hosts}/d` }, poolMax: 1 })
      await t.rejects(
        database.run((db) => db.execute('select 1')),
        { name: 'DatabaseUnavailableError' },
      )
      await database.close()
      t.ok(accepted <= 3, `${accepted} connections for one query`)
    }
  },
)

t.test('work on a server that accepts connections and never responds ends at the deadline', async (t) => {
  const { url } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const database = connectDatabase({ target: { url: proxy.through(url) }, poolMax: 1 })
  t.teardown(() => database.close())
  await database.run((db) => db.execute('select 1'))
  proxy.judge(() => 'swallow')
  const error = { name: 'DatabaseUnavailableError', message: /no answer within 200 ms/ }
  await t.rejects(
    database.run((db) => db.execute('select 1'), { deadlineMs: 200 }),
    error,
  )
  await t.rejects(
    database.run((db) => db.transaction((tx) => tx.execute('select 1')), { deadlineMs: 200 }),
    error,
    'on a new connection too',
  )
  t.equal(database.up, false)
  proxy.judge(() => 'pass')
  await t.resolves(database.run((db) => db.execute('select 1')))
  t.equal(database.up, true)
})
