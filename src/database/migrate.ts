// Applies the migrations in drizzle/, once, however many replicas start together.

import { readFileSync } from 'node:fs'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/postgres-js'
import { migrate as applyMigrations } from 'drizzle-orm/postgres-js/migrator'
import type { Sql } from 'postgres'
import type { Database, Executor } from './client.js'
import { lockKeys } from './locks.js'

const FOLDER = new URL('../../drizzle/', import.meta.url).pathname
const DEADLINE_MS = 300_000
const OLDEST_SERVER = 14

/** Applies what is missing, in one transaction; replicas that come at the same time wait and find nothing to do. */
export async function migrate(database: Database): Promise<void> {
  await database.run(
    ({ $client: client }) =>
      client.begin(async (tx) => {
        // The migrator asks for a transaction of its own: it gets a savepoint of the one that holds the lock.
        const db = drizzle(
          Object.assign(tx, { begin: tx.savepoint, options: client.options }) as unknown as Sql,
        )
        // Waiting for another replica's migrations may take long, and so may a migration.
        await db.execute(
          sql`select set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true)`,
        )
        await checkServer(db)
        await db.execute(sql`select pg_advisory_xact_lock(${lockKeys.migrate})`)
        await applyMigrations(db, { migrationsFolder: FOLDER })
      }),
    DEADLINE_MS,
  )
}

/** Rejects with a message that says what to do if the database's schema is older than this version needs. */
export async function checkMigrated(database: Database): Promise<void> {
  const journal = JSON.parse(readFileSync(new URL('meta/_journal.json', `file://${FOLDER}`), 'utf8')) as {
    entries: { when: number }[]
  }
  const wanted = Math.max(...journal.entries.map((entry) => entry.when))
  const applied = await database.run(async (db) => {
    await checkServer(db)
    const [exists] = await db.execute<{ yes: boolean }>(
      sql`select to_regclass('drizzle.__drizzle_migrations') is not null as yes`,
    )
    if (!exists?.yes) return 0
    const [last] = await db.execute<{ created_at: string | null }>(
      sql`select max(created_at) as created_at from drizzle.__drizzle_migrations`,
    )
    return Number(last?.created_at ?? 0)
  })
  if (applied < wanted)
    throw new Error(
      'the database lacks migrations of this version: start one replica with MIGRATE_ON_START=true',
    )
}

async function checkServer(db: Executor): Promise<void> {
  const [server] = await db.execute<{ version: string }>(
    sql`select current_setting('server_version_num') as version`,
  )
  const major = Math.floor(Number(server?.version) / 10_000)
  if (major < OLDEST_SERVER)
    throw new Error(`PostgreSQL ${major} is too old: boundary-usage needs ${OLDEST_SERVER} or later`)
}
