// A database of its own for whoever asks, gone when the test ends.

import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import type { Test } from 'tap'
import { connectDatabase, type Database } from '../../src/database/client.js'
import { databaseUrl } from './postgres.js'
import { findServer, TEMPLATE } from './shared-server.js'

export interface TestDatabase {
  url: string
  /** For looking at what the code under test has done. */
  sql: postgres.Sql
  /** As the code under test reaches it. */
  database: Database
}

/** Clones the migrated template, or makes an empty database. */
export async function testDatabase(t: Test, options: { empty?: boolean } = {}): Promise<TestDatabase> {
  const server = await findServer()
  const name = `test_${randomUUID().replaceAll('-', '')}`
  const admin = postgres(server.url, { max: 1, onnotice: () => {} })
  await (options.empty
    ? admin`create database ${admin(name)}`
    : admin`create database ${admin(name)} template ${admin(TEMPLATE)}`)

  const url = databaseUrl(server, name)
  const sql = postgres(url, { max: 4, onnotice: () => {} })
  const database = connectDatabase({ target: { url }, poolMax: 4 })
  t.teardown(async () => {
    await database.close()
    await sql.end({ timeout: 1 })
    await admin`drop database ${admin(name)} with (force)`
    await admin.end()
  })
  return { url, sql, database }
}

/** Resolves when a statement in that database waits for a lock. */
export async function untilBlocked(sql: postgres.Sql): Promise<void> {
  for (;;) {
    const [blocked] = await sql`select count(*)::int as n from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`
    if (blocked?.n > 0) return
  }
}
