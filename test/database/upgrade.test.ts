// An upgrade in progress: a database of the previous version, migrated while replicas of that version still run.
//
// The statements are those of the version before sketches (migration 0000), as its build sent them.

import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type postgres from 'postgres'
import t from 'tap'
import { migrate } from '../../src/database/migrate.js'
import { testDatabase } from '../helpers/database.js'
import { allowedLog, json, logs, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

async function migrateBefore(sql: postgres.Sql): Promise<void> {
  const folder = new URL('../../drizzle/', import.meta.url)
  const { entries } = JSON.parse(await readFile(new URL('meta/_journal.json', folder), 'utf8')) as {
    entries: { tag: string; when: number }[]
  }
  await sql.unsafe(await readFile(new URL(`${entries[0]?.tag}.sql`, folder), 'utf8'))
  await sql`create schema drizzle`
  await sql`create table drizzle.__drizzle_migrations (id serial primary key, hash text not null, created_at bigint)`
  await sql`insert into drizzle.__drizzle_migrations (hash, created_at) values ('before', ${entries[0]?.when ?? 0})`
}

async function flushBefore(sql: postgres.Sql, replicaId: string, seq: number, ids: number, allowed: number) {
  const [row] = await sql`
    with fence as (
      insert into boundary_usage_replicas as replica
        (replica_id, name, version, started_at, last_flush_seq, last_flush_at)
      values (${replicaId}, 'before', '0.1.0', now(), ${seq}, now())
      on conflict (replica_id) do update
        set last_flush_seq = excluded.last_flush_seq, last_flush_at = excluded.last_flush_at
        where replica.last_flush_seq < excluded.last_flush_seq
      returning replica_id
    )
    insert into boundary_usage_stats as stats
      (replica_id, unique_workspaces_count, unique_users_count, allowed_requests, denied_requests,
       first_flush_seq, window_start, updated_at)
    select replica_id, ${ids}::bigint, ${ids}::bigint, ${allowed}::bigint, 0::bigint, ${seq}::bigint, now(), now()
    from fence
    on conflict (replica_id) do update set
      unique_workspaces_count = ${ids}::bigint, unique_users_count = ${ids}::bigint,
      allowed_requests = stats.allowed_requests + excluded.allowed_requests,
      denied_requests = stats.denied_requests + excluded.denied_requests,
      updated_at = excluded.updated_at
    returning first_flush_seq`
  return row?.first_flush_seq === String(seq)
}

async function snapshotBefore(sql: postgres.Sql): Promise<void> {
  await sql.begin(async (tx) => {
    const [sums] = await tx`
      with taken as (
        delete from boundary_usage_stats returning replica_id, unique_workspaces_count, unique_users_count,
          allowed_requests, denied_requests, first_flush_seq, window_start, updated_at)
      select count(*)::int as replicas, coalesce(sum(unique_users_count), 0)::bigint as users,
        coalesce(sum(allowed_requests), 0)::bigint as allowed from taken`
    await tx`insert into telemetry_snapshots
      (id, trigger, reported_by, replicas, period_start, period_end, taken_at, unique_workspaces, unique_users,
       unique_workspaces_summed, unique_users_summed, allowed_requests, denied_requests)
      values (${randomUUID()}, 'manual', ${randomUUID()}, ${sums?.replicas},
       (select max(period_end) from telemetry_snapshots), clock_timestamp(), now(), ${sums?.users}, ${sums?.users},
       ${sums?.users}, ${sums?.users}, ${sums?.allowed}, 0)`
  })
}

t.test('the previous version and this one count side by side, and no earlier data is lost', async (t) => {
  const { url, sql, database } = await testDatabase(t, { unmigrated: true })
  await migrateBefore(sql)
  const before = randomUUID()
  await flushBefore(sql, before, 1, 3, 10)
  await sql`insert into telemetry_snapshots values (${randomUUID()}, 'schedule', ${before}, 1,
    now() - interval '2 hours', now() - interval '1 hour', now(), 5, 4, 5, 4, 100, 7)`

  await migrate(database)
  const replica = await startReplica(t, url)
  await replica.send({ logs: logs(6, 4) })
  t.equal(await flushBefore(sql, before, 2, 4, 10), false, 'the version before adds to its row')
  t.hasStrict(await json(replica.get('/telemetry/snapshot')), {
    replicas: 2,
    allowed_requests: 26,
    denied_requests: 4,
    unique_users: 5,
    unique_users_summed: 5,
  })
  t.hasStrict(await json(replica.post('/telemetry/snapshot')), { allowed_requests: 26, unique_users: 5 })

  t.equal(await flushBefore(sql, before, 3, 2, 1), true, 'it learns of the new period')
  await replica.send({ logs: logs(2, 0) })
  await replica.app.counting.flush()
  await snapshotBefore(sql)
  await replica.send({ logs: logs(3, 0) })
  t.hasStrict(await json(replica.get('/telemetry/snapshot')), {
    replicas: 1,
    allowed_requests: 3,
    unique_users: 1,
  })

  const usage = await json<{ total: unknown }>(replica.get('/telemetry/usage'))
  t.hasStrict(usage.total, { snapshots: 3, allowed_requests: 129, denied_requests: 11 })
  t.equal((await sql`select count(*)::int as n from telemetry_snapshots`)[0]?.n, 3)

  await replica.post('/telemetry/snapshot')
  await until(
    async () => {
      const [row] =
        await sql`select sum(snapshots)::int as n, sum(allowed_requests)::int as allowed from telemetry_days`
      return row?.n === 4 && row.allowed === 132
    },
    { what: 'its history, and what the version before added, in days' },
  )
  t.equal((await sql`select 1 from telemetry_snapshots where not in_days`).length, 0)
})

t.test('logs of a session that the previous version counted are not reported as missing', async (t) => {
  const { url, sql } = await testDatabase(t)
  const before = randomUUID()
  const replica = await startReplica(t, url, {}, { silenceMs: 0 })
  const ids = { workspace_id: randomUUID(), owner_id: randomUUID(), session_id: randomUUID() }
  const send = (from: number, to: number) => {
    const numbers = Array.from({ length: to - from }, (_, index) => from + index)
    return replica.send({ ...ids, logs: numbers.map((n) => ({ ...allowedLog, sequence_number: n })) })
  }
  await send(0, 5)
  // The agent's next batches reach the previous version: logs 5 to 7, and 0 to 4 again.
  await flushBefore(sql, before, 1, 1, 3 + 5)
  await send(8, 10)
  t.hasStrict(await json(replica.post('/telemetry/snapshot')), {
    allowed_requests: 5 + 3 + 5 + 2,
    duplicate_requests: 0,
    missing_requests: 0,
  })

  await sql`update boundary_usage_replicas set last_flush_at = now() - interval '2 hours'
    where replica_id = ${before}`
  await send(5, 8)
  await send(12, 13)
  t.hasStrict(
    await json(replica.post('/telemetry/snapshot')),
    { allowed_requests: 3 + 1, duplicate_requests: 0, missing_requests: 2, recovered_requests: 0 },
    'what it counted counts again if it is sent again, and 10 and 11 are missing',
  )
})
