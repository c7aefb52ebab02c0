// A database for each test: migrated and empty.

import { sql as drizzleSql } from 'drizzle-orm'
import { PgDialect } from 'drizzle-orm/pg-core'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { connectDatabase, type Database } from '../../src/database/client.js'
import { locks } from '../../src/database/locks.js'
import { databaseUrl } from './postgres.js'
import { SERVER_VARIABLE, startShared, TEMPLATE } from './shared-server.js'
import { until } from './until.js'

export interface TestDatabase {
  url: string
  /** For looking at what the code under test has done. */
  sql: postgres.Sql
  /** As the code under test reaches it. */
  database: Database
}

let server: string | Promise<string> | undefined = process.env[SERVER_VARIABLE]
/** Databases of this file that no test uses at present, emptied. */
const idle: string[] = []
let created = 0

/**
 * Takes a database that an earlier test of the file has left, or clones the migrated template. `unmigrated` makes a
 * new one without tables; `altered` says that the test leaves it with another schema, so that no other test gets it.
 */
export async function testDatabase(
  t: Test,
  { unmigrated = false, altered = unmigrated }: { unmigrated?: boolean; altered?: boolean } = {},
): Promise<TestDatabase> {
  const name = (unmigrated ? undefined : idle.pop()) ?? (await createDatabase(unmigrated))
  const url = databaseUrl(await findServer(), name)
  const sql = postgres(url, { max: 4, onnotice: () => {} })
  const database = connectDatabase({ target: { url }, poolMax: 5 })
  t.teardown(async () => {
    await database.close()
    if (!altered) {
      await empty(sql)
      idle.push(name)
    }
    await sql.end({ timeout: 1 })
  })
  return { url, sql, database }
}

async function findServer(): Promise<string> {
  server ??= startShared(t)
  return server
}

async function createDatabase(unmigrated: boolean): Promise<string> {
  const name = `test_${process.pid}_${++created}`
  const admin = postgres(await findServer(), { max: 1, fetch_types: false })
  await (unmigrated
    ? admin`create database ${admin(name)}`
    : admin`create database ${admin(name)} template ${admin(TEMPLATE)}`)
  await admin.end()
  return name
}

/** Ends what a killed process may have left running, then empties the tables. Truncating an empty one costs as much. */
async function empty(sql: postgres.Sql): Promise<void> {
  const own = await sql.reserve() // the others of the pool are ended, too
  await own`select pg_terminate_backend(pid, 5000) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()`
  const tables = await own<{ name: string }[]>`select relname as name from pg_class
    where relkind = 'r' and relnamespace = current_schema()::regnamespace and relname not like '%migrations'
      and pg_relation_size(oid) > 0`
  if (tables.length > 0) await own`truncate ${own(tables.map(({ name }) => name))} cascade`
  own.release()
}

/** Resolves when a statement in that database waits for a lock. */
export async function untilBlocked(sql: postgres.Sql): Promise<void> {
  await until(
    async () => {
      const [blocked] = await sql<{ n: number }[]>`select count(*)::int as n from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'`
      return blocked !== undefined && blocked.n > 0
    },
    { what: 'a statement that waits for a lock' },
  )
}

/** Takes the lock of a snapshot, as another replica does that is taking one. */
export async function lockSnapshots(tx: postgres.TransactionSql): Promise<void> {
  const { sql, params } = new PgDialect().sqlToQuery(
    drizzleSql`select pg_advisory_xact_lock(${locks.snapshot})`,
  )
  await tx.unsafe(sql, params.map(String))
}

/** The URL of a session that starts with these settings: `name=value`. */
export function withSettings(url: string, settings: string[]): string {
  const options = settings.map((setting) => `-c ${setting.replaceAll(' ', '\\ ')}`).join(' ')
  return `${url}?options=${encodeURIComponent(options)}` // %20 for a space, as libpq reads it
}
