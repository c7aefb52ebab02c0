// The upkeep of the embedded PostgreSQL, which runs no background processes: nothing else vacuums its tables, or removes
// write-ahead log.

import { sql } from 'drizzle-orm'
import type { Db } from './client.js'

/** A multiple of what PostgreSQL writes at once, and little compared with a new data directory (40 MB). */
const MAX_WAL_BYTES = 32 * 1_048_576

/**
 * Vacuums and makes a checkpoint if much has been written since the last one. Whatever makes a table grow is written to
 * the log, so the log's size stands for both. Resolves with the number of bytes that were written, or with undefined if
 * there was nothing to do.
 */
export async function compact(db: Db): Promise<number | undefined> {
  const [row] = await db.execute<{ bytes: string }>(
    sql`select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), redo_lsn) as bytes from pg_control_checkpoint()`,
  )
  const bytes = Number(row?.bytes)
  if (bytes < MAX_WAL_BYTES) return undefined
  // On the client itself, because Drizzle's statements run in transactions, and VACUUM cannot.
  await db.$client`vacuum`
  await db.$client`checkpoint`
  return bytes
}
