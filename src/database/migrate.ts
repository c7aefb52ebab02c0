// Applies the migrations in drizzle/, once, even if several replicas start together.

import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inArray, sql } from 'drizzle-orm'
import { bigint, pgSchema, pgTable, text } from 'drizzle-orm/pg-core'
import { StartError } from '../start-error.js'
import type { Database, Executor } from './client.js'
import { locks } from './locks.js'
import { SKETCH_KEY_BYTES } from './settings.js'

const FOLDER = fileURLToPath(new URL('../../drizzle/', import.meta.url))
const DEADLINE_MS = 300_000
const OLDEST_SERVER = 14

/** The names of the migrations that the schema of the tables has. */
const journal = pgTable('boundary_usage_migrations', { name: text().primaryKey() })

/** Drizzle's own journal, which version 0.1.0 used; other applications write to it too. */
const journalBefore = pgSchema('drizzle').table('__drizzle_migrations', {
  created_at: bigint({ mode: 'number' }),
})
/** The migration with which version 0.1.0 created the table `settings`, whose row is copied. */
const CREATED_SETTINGS = '0001_sketches_and_delivery'

/** The migrations of this version by name, in order, and whether the database has them. */
export interface MigrationStatus {
  applied: string[]
  pending: string[]
}

/**
 * Applies pending migrations in one transaction and returns their names; replicas that start at the same time wait
 * and find nothing to do. If nothing is pending, it only reads.
 */
export async function migrate(database: Database): Promise<string[]> {
  const { pending } = await migrationStatus(database)
  if (pending.length === 0) return []
  return database.run(
    (db) =>
      db.transaction(async (tx) => {
        // Another replica's migrations may take long, and so may a migration.
        await tx.execute(sql`select set_config(name, '0', true) from pg_settings
          where name in ('statement_timeout', 'lock_timeout', 'transaction_timeout')`)
        await tx.execute(sql`select pg_advisory_xact_lock(${locks.migrate})`)
        return applyPending(tx)
      }),
    { deadlineMs: DEADLINE_MS },
  )
}

/** Reads only. */
export async function migrationStatus(database: Database): Promise<MigrationStatus> {
  return database.run(async (db) => {
    await checkServer(db)
    return statusOf((await readApplied(db)).names)
  })
}

/** Rejects with a message that says what to do if the database's schema is older than this version needs. */
export async function checkMigrated(database: Database): Promise<void> {
  const { pending } = await migrationStatus(database)
  if (pending.length > 0)
    throw new StartError(
      'the database lacks migrations of this version: run "node dist/server.js migrate", or start one replica with MIGRATE_ON_START=true',
    )
}

/** The status of a database that has these migrations. */
export function statusOf(applied: readonly string[]): MigrationStatus {
  const names = readJournal().map(({ tag }) => tag)
  return {
    applied: names.filter((name) => applied.includes(name)),
    pending: names.filter((name) => !applied.includes(name)),
  }
}

function readJournal(): { tag: string; when: number }[] {
  const { entries } = JSON.parse(readFileSync(join(FOLDER, 'meta/_journal.json'), 'utf8')) as {
    entries: { tag: string; when: number }[]
  }
  return entries
}

interface Applied {
  names: string[]
  /** Whether it is in our journal; otherwise in Drizzle's, and to be taken over from there. */
  isRecorded: boolean
}

async function readApplied(db: Executor): Promise<Applied> {
  // Not to_regclass(): behind the lock, it may still answer from before another replica's commit.
  const exists = (table: string) =>
    sql`exists (select from pg_tables where schemaname = current_schema() and tablename = ${table})`
  const [there] = await db.execute<{ journal: boolean; tables: boolean }>(
    sql`select ${exists('boundary_usage_migrations')} as journal, ${exists('boundary_usage_stats')} as tables`,
  )
  if (there?.journal) {
    const rows = await db.select({ name: journal.name }).from(journal)
    return { names: rows.map(({ name }) => name), isRecorded: true }
  }
  // Another deployment of version 0.1.0 may be in another schema: its migrations are not this schema's.
  if (!there?.tables) return { names: [], isRecorded: false }
  const entries = readJournal()
  const times = entries.map(({ when }) => when)
  const rows = await db
    .select({ time: journalBefore.created_at })
    .from(journalBefore)
    .where(inArray(journalBefore.created_at, times))
  const names = entries.filter(({ when }) => rows.some(({ time }) => time === when)).map(({ tag }) => tag)
  return { names, isRecorded: false }
}

async function applyPending(tx: Executor): Promise<string[]> {
  const { names: applied, isRecorded } = await readApplied(tx)
  const { pending } = statusOf(applied)
  if (pending.length === 0) return []
  await checkPrivileges(tx)
  const record = (name: string) => tx.insert(journal).values({ name })
  if (!isRecorded) {
    await tx.execute(sql`create table boundary_usage_migrations (
      name text primary key, applied_at timestamptz not null default now())`)
    for (const name of applied) await record(name)
  }
  for (const name of pending) {
    const file = readFileSync(join(FOLDER, `${name}.sql`), 'utf8')
    for (const statement of file.split('--> statement-breakpoint')) await tx.execute(sql.raw(statement))
    await record(name)
  }
  if (!isRecorded && applied.includes(CREATED_SETTINGS)) await copySettings(tx)
  return pending
}

/** Version 0.1.0 may still run, or start for the first time: both versions must have one key. */
async function copySettings(tx: Executor): Promise<void> {
  await tx.execute(
    sql`insert into settings (sketch_key) values (${randomBytes(SKETCH_KEY_BYTES)}) on conflict do nothing`,
  )
  await tx.execute(
    sql`insert into boundary_usage_settings (id, sketch_key) select id, sketch_key from settings`,
  )
}

/** Rejects with StartError, which names the grant, if the role may not change the schema. */
async function checkPrivileges(tx: Executor): Promise<void> {
  const [found] = await tx.execute<{
    role: string
    schema: string | null
    may_create: boolean | null
    owner: string | null
  }>(sql`
    select quote_ident(current_user) as role, quote_ident(current_schema()) as schema,
      has_schema_privilege(current_schema(), 'CREATE') as may_create,
      (select quote_ident(tableowner) from pg_tables
        where schemaname = current_schema() and tablename ~ '^(boundary_usage|telemetry)_'
          and not pg_has_role(tableowner, 'USAGE') limit 1) as owner`)
  if (!found) throw new Error('SELECT without FROM returned no row')
  const { role, schema, may_create, owner } = found
  if (schema === null)
    throw new StartError(
      `the search_path of role ${role} names no schema that it may use: create one, then GRANT USAGE, CREATE ON SCHEMA <name> TO ${role}`,
    )
  if (!may_create)
    throw new StartError(
      `role ${role} may not create tables: GRANT CREATE ON SCHEMA ${schema} TO ${role}, or run "node dist/server.js migrate" as a role that may`,
    )
  if (owner !== null)
    throw new StartError(
      `role ${role} may not change the tables, which belong to ${owner}: GRANT ${owner} TO ${role}, or run "node dist/server.js migrate" as ${owner}`,
    )
}

async function checkServer(db: Executor): Promise<void> {
  const [server] = await db.execute<{ version: string }>(
    sql`select current_setting('server_version_num') as version`,
  )
  const major = Math.floor(Number(server?.version) / 10_000)
  if (major < OLDEST_SERVER)
    throw new StartError(`PostgreSQL ${major} is too old: boundary-usage needs ${OLDEST_SERVER} or later`)
}
