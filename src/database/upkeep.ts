// The upkeep of the embedded PostgreSQL, which runs no background processes: nothing else vacuums its tables, or removes
// write-ahead log.

import { sql } from 'drizzle-orm'
import type { Db } from './client.js'

/**
 * Vacuums and makes a checkpoint if `threshold` bytes have been written since the last one. Whatever makes a table grow
 * is written to the log, so the log's size stands for both: each exceeds its lowest size by no more than what is
 * written between two checkpoints. Resolves with the number of bytes that were written, or with undefined if there was
 * nothing to do.
 */
export async function compact(db: Db, threshold: number): Promise<number | undefined> {
  const [row] = await db.execute<{ bytes: string }>(
    sql`select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), redo_lsn) as bytes from pg_control_checkpoint()`,
  )
  const bytes = Number(row?.bytes)
  if (bytes < threshold) return undefined
  // On the client itself, because Drizzle's statements run in transactions, and VACUUM cannot.
  await db.$client`vacuum`
  await db.$client`checkpoint`
  return bytes
}
