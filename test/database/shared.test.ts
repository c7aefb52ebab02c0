// A database that other applications, other versions and other deployments use too.

import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type postgres from 'postgres'
import t from 'tap'
import { migrate, migrationStatus } from '../../src/database/migrate.js'
import { readSketchKey } from '../../src/database/settings.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { type TestDatabase, testDatabase, withSettings } from '../helpers/database.js'
import { runCommand, startProcess } from '../helpers/process.js'
import { json, logs, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

t.jobs = 2

const SCHEMA_BEFORE = new URL('./version-0.1.0.sql', import.meta.url)
/** When version 0.1.0's migrations were made, which is how its journal knows them. */
const TIMES_BEFORE = [1795475536365, 1795487630100]

/** Leaves the database as a start of version 0.1.0 does. */
async function startBefore(sql: postgres.Sql): Promise<void> {
  await sql.unsafe(await readFile(SCHEMA_BEFORE, 'utf8'))
  await createDrizzleJournal(sql)
  for (const time of TIMES_BEFORE)
    await sql`insert into drizzle.__drizzle_migrations (hash, created_at) values ('0.1.0', ${time})`
}

async function createDrizzleJournal(sql: postgres.Sql): Promise<void> {
  await sql`create schema drizzle`
  await sql`create table drizzle.__drizzle_migrations (id serial primary key, hash text not null, created_at bigint)`
}

/** As version 0.1.0 decides whether it has to migrate: nothing that it brings is newer than the newest entry. */
async function startsBefore(sql: postgres.Sql): Promise<boolean> {
  const [row] = await sql`select max(created_at)::float8 as newest from drizzle.__drizzle_migrations`
  return row?.newest >= Math.max(...TIMES_BEFORE)
}

/** Version 0.1.0 on the settings row: reads it, or creates it. */
async function keyBefore(sql: postgres.Sql): Promise<Buffer> {
  await sql`insert into settings (sketch_key) values (${Buffer.alloc(32, 9)}) on conflict do nothing`
  const [row] = await sql<{ sketch_key: Buffer }[]>`select sketch_key from settings`
  if (!row) throw new Error('no settings row')
  return row.sketch_key
}

for (const when of ['older', 'newer'])
  t.test(
    `another application's ${when} migrations in Drizzle's journal do not affect this service`,
    async (t) => {
      const { url, sql, database } = await testDatabase(t, { unmigrated: true })
      await createDrizzleJournal(sql)
      const time = when === 'older' ? 1 : Date.now() + 1e12
      await sql`insert into drizzle.__drizzle_migrations (hash, created_at) values ('other', ${time})`
      await sql`create table settings (name text)`
      await sql`insert into settings values ('theirs')`

      const replica = await startReplica(t, url)
      await replica.send({ logs: logs(3, 2) })
      t.hasStrict(await json(replica.post('/telemetry/snapshot')), {
        allowed_requests: 3,
        denied_requests: 2,
      })
      t.strictSame((await migrationStatus(database)).pending, [])
      t.strictSame(
        [...(await sql`select hash, created_at::float8 as time from drizzle.__drizzle_migrations`)],
        [{ hash: 'other', time }],
      )
      t.strictSame([...(await sql`select * from settings`)], [{ name: 'theirs' }])
    },
  )

t.test('a new installation has its own names only', async (t) => {
  const { sql, database } = await testDatabase(t, { unmigrated: true })
  await migrate(database)
  const tables = await sql`select schemaname || '.' || tablename as name from pg_tables
    where schemaname not in ('pg_catalog', 'information_schema')`
  for (const { name } of tables) t.match(name, /^public\.(boundary_usage|telemetry)_/)
  const [drizzle] = await sql`select to_regnamespace('drizzle') is null as absent`
  t.equal(drizzle?.absent, true)
})

t.test('an upgrade keeps the data of version 0.1.0, and both versions use one key', async (t) => {
  for (const first of ['before', 'after']) {
    const { sql, database } = await testDatabase(t, { unmigrated: true })
    await startBefore(sql)
    const other = Date.now() + 1e12 // of another application
    await sql`insert into drizzle.__drizzle_migrations (hash, created_at) values ('other', ${other})`
    const key = first === 'before' ? await keyBefore(sql) : undefined
    await sql`insert into telemetry_snapshots
      (id, trigger, reported_by, replicas, period_start, period_end, taken_at, unique_workspaces, unique_users,
       unique_workspaces_summed, unique_users_summed, allowed_requests, denied_requests)
      values (${randomUUID()}, 'manual', ${randomUUID()}, 1, now() - interval '1 hour', now(), now(), 1, 1, 1, 1, 7, 2)`

    const { applied } = await migrationStatus(database)
    t.strictSame(applied, ['0000_init', '0001_sketches_and_delivery'])
    const migrations = await migrate(database)
    t.ok(migrations.includes('0002_settings'))
    t.strictSame(await migrate(database), [])
    t.ok(await startsBefore(sql), 'version 0.1.0 can start')
    const ours = Buffer.from(await database.run(readSketchKey))
    t.strictSame(ours, key ?? (await keyBefore(sql)), `${first} the upgrade version 0.1.0 read its key`)
    const [row] = await sql`select allowed_requests::int as allowed from telemetry_snapshots`
    t.equal(row?.allowed, 7)
  }
})

t.test("version 0.1.0's snapshot and ours exclude each other", async (t) => {
  const { sql, database } = await testDatabase(t)
  const take = () => database.run((db) => takeSnapshot(db, { trigger: 'manual', reportedBy: randomUUID() }))
  await sql.begin(async (tx) => {
    const key = String((0x62757367n << 32n) | 2n)
    const [lock] = await tx`select pg_try_advisory_xact_lock(${key}::bigint) as granted`
    t.equal(lock?.granted, true)
    t.equal((await take()).result, 'busy')
  })
  t.equal((await take()).result, 'taken')
})

/** The database by way of `schema`, which is created. */
async function inSchema({ url, sql }: TestDatabase, schema: string): Promise<string> {
  await sql`create schema ${sql(schema)}`
  return withSettings(url, [`search_path=${schema},public`])
}

t.test('deployments in schemas of one database share nothing', async (t) => {
  const shared = await testDatabase(t, { unmigrated: true })
  const urls = [shared.url, await inSchema(shared, 'one'), await inSchema(shared, 'two')]
  const replicas = await Promise.all(urls.map((url) => startReplica(t, url, { ACK: 'durable' })))
  for (const [n, replica] of replicas.entries())
    t.equal((await replica.send({ logs: logs(n + 1, 0) })).status, 202)
  // Each is held in the middle of its snapshot until all are: none waits for another's lock.
  const { sql } = shared
  await sql.unsafe(`create function wait_for_all() returns trigger language plpgsql as $$ begin
    perform pg_advisory_xact_lock_shared(1); return new; end $$`)
  for (const schema of ['public', 'one', 'two'])
    await sql.unsafe(`create trigger wait before insert on ${schema}.telemetry_snapshots
      for each row execute function public.wait_for_all()`)
  let snapshots: Promise<Response>[] = []
  await sql.begin(async (tx) => {
    await tx`select pg_advisory_xact_lock(1)`
    snapshots = replicas.map((replica) => replica.post('/telemetry/snapshot'))
    await until(
      async () => {
        const [row] = await sql<{ n: number }[]>`select count(*)::int as n from pg_locks
          where locktype = 'advisory' and not granted and database = (
            select oid from pg_database where datname = current_database())`
        return row?.n === 3
      },
      { what: 'three snapshots under way at once' },
    )
  })
  for (const [n, snapshot] of snapshots.entries())
    t.hasStrict(await json(snapshot), { allowed_requests: n + 1, replicas: 1 })
  const keys = await sql`select sketch_key from public.boundary_usage_settings
    union select sketch_key from one.boundary_usage_settings union select sketch_key from two.boundary_usage_settings`
  t.equal(keys.length, 3)
})

/** A role that may log in and nothing else; the URL with which it does. */
async function createRole({ url, sql }: TestDatabase, name: string): Promise<string> {
  await sql.unsafe(`create role ${name} login password 'secret-of-${name}'`)
  const own = new URL(url)
  own.username = name
  own.password = `secret-of-${name}`
  return String(own)
}

t.test('without pending migrations, a role that may only read and write the tables suffices', async (t) => {
  const shared = await testDatabase(t, { altered: true })
  const role = `writer_${process.pid}`
  const url = await createRole(shared, role)
  t.teardown(() => shared.sql.unsafe(`drop owned by ${role}; drop role ${role}`))
  const tables = 'all tables in schema public'
  await shared.sql.unsafe(`grant select, insert, update, delete on ${tables} to ${role}`)
  const replica = await startReplica(t, url, { MIGRATE_ON_START: 'true' })
  await replica.send({ logs: logs(3, 2) })
  t.hasStrict(await json(replica.post('/telemetry/snapshot')), { allowed_requests: 3, denied_requests: 2 })
  t.hasStrict(await json(replica.get('/telemetry/usage')), { total: { allowed_requests: 3 } })
  const { replicas } = await json<{ replicas: { name: string }[] }>(replica.get('/telemetry/replicas'))
  t.strictSame(
    replicas.map(({ name }) => name),
    ['test'],
  )
  await replica.app.close()
})

t.test('a missing privilege ends the start with the grant that is needed', async (t) => {
  const shared = await testDatabase(t, { unmigrated: true })
  const { sql } = shared
  await sql.unsafe('revoke create on schema public from public') // as PostgreSQL 15 and later have it
  const role = `newcomer_${process.pid}`
  const url = await createRole(shared, role)
  t.teardown(() => sql.unsafe(`drop owned by ${role}; drop role ${role}`))

  const says = async (expected: RegExp) => {
    const migrated = await runCommand(t, ['migrate'], { DATABASE_URL: url })
    t.equal(migrated.code, 1)
    t.match(migrated.stderr, expected)
    const service = await startProcess(t, { DATABASE_URL: url }, { until: 'spawned' })
    t.strictSame(await service.exited, { code: 1, signal: null })
    t.match(service.stdout + service.stderr, expected)
    for (const text of [migrated.stderr, service.stdout, service.stderr]) t.notMatch(text, 'secret-of-')
  }
  await says(new RegExp(`role ${role} may not create tables: GRANT CREATE ON SCHEMA public TO ${role}`))
  await sql.unsafe(`revoke usage on schema public from public`)
  await says(new RegExp(`the search_path of role ${role} names no schema .* GRANT USAGE, CREATE ON SCHEMA`))
  await sql.unsafe(`grant usage, create on schema public to ${role}`)
  t.hasStrict(await runCommand(t, ['migrate'], { DATABASE_URL: url }), { code: 0 })

  const other = `other_${process.pid}`
  const otherUrl = await createRole(shared, other)
  t.teardown(() => sql.unsafe(`drop owned by ${other}; drop role ${other}`))
  await sql.unsafe(`grant usage, create on schema public to ${other}`)
  await sql.unsafe(`grant select on boundary_usage_migrations to ${other}`)
  await sql`delete from boundary_usage_migrations where name = '0002_settings'`
  t.match(await runCommand(t, ['migrate'], { DATABASE_URL: otherUrl }), {
    code: 1,
    stderr: new RegExp(
      `role ${other} may not change the tables, which belong to ${role}: GRANT ${role} TO ${other}`,
    ),
  })
})
