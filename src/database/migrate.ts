// Applies the migrations in drizzle/ once, also if several replicas start together.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/postgres-js'
import { migrate as applyMigrations } from 'drizzle-orm/postgres-js/migrator'
import type { Sql } from 'postgres'
import type { Database, Executor } from './client.js'
import { lockKeys } from './locks.js'

const FOLDER = fileURLToPath(new URL('../../drizzle/', import.meta.url))
const DEADLINE_MS = 300_000
const OLDEST_SERVER = 14

/** The names of this version's migrations, in order. */
export interface MigrationStatus {
  applied: string[]
  pending: string[]
}

/**
 * Applies the pending migrations in one transaction and returns their names. Replicas that start at the same time wait
 * for it, and then find nothing pending.
 */
export async function migrate(database: Database): Promise<string[]> {
  return database.run(
    ({ $client: client }) =>
      client.begin(async (tx) => {
        // The migrator begins a transaction of its own: it gets a savepoint in the one that holds the lock.
        const db = drizzle(
          Object.assign(tx, { begin: tx.savepoint, options: client.options }) as unknown as Sql,
        )
        // A migration may take long, and so may the wait for another replica's migrations.
        await db.execute(
          sql`select set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true)`,
        )
        await checkServer(db)
        await db.execute(sql`select pg_advisory_xact_lock(${lockKeys.migrate})`)
        const { pending } = await readStatus(db)
        await applyMigrations(db, { migrationsFolder: FOLDER })
        return pending
      }),
    DEADLINE_MS,
  )
}

/** Reads only. */
export async function migrationStatus(database: Database): Promise<MigrationStatus> {
  return database.run(async (db) => {
    await checkServer(db)
    return readStatus(db)
  })
}

/** Rejects if migrations of this version are pending; the message says how to apply them. */
export async function checkMigrated(database: Database): Promise<void> {
  const { pending } = await migrationStatus(database)
  if (pending.length > 0)
    throw new Error(
      'the database lacks migrations of this version: run "node dist/server.js migrate", or start one replica with MIGRATE_ON_START=true',
    )
}

/** Like the migrator: migrations newer than the newest applied one are pending. */
async function readStatus(db: Executor): Promise<MigrationStatus> {
  const [exists] = await db.execute<{ yes: boolean }>(
    sql`select to_regclass('drizzle.__drizzle_migrations') is not null as yes`,
  )
  if (!exists?.yes) return statusAt(0)
  const [last] = await db.execute<{ created_at: string | null }>(
    sql`select max(created_at) as created_at from drizzle.__drizzle_migrations`,
  )
  return statusAt(Number(last?.created_at ?? 0))
}

/** The status of a database whose newest migration has this timestamp; 0 if it has none. */
export function statusAt(newest: number): MigrationStatus {
  const journal = JSON.parse(readFileSync(join(FOLDER, 'meta/_journal.json'), 'utf8')) as {
    entries: { tag: string; when: number }[]
  }
  const names = (has: boolean) =>
    journal.entries.filter(({ when }) => when <= newest === has).map(({ tag }) => tag)
  return { applied: names(true), pending: names(false) }
}

async function checkServer(db: Executor): Promise<void> {
  const [server] = await db.execute<{ version: string }>(
    sql`select current_setting('server_version_num') as version`,
  )
  const major = Math.floor(Number(server?.version) / 10_000)
  if (major < OLDEST_SERVER)
    throw new Error(`PostgreSQL ${major} is too old: boundary-usage requires ${OLDEST_SERVER} or later`)
}
