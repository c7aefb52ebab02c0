// What replicas announce to each other with NOTIFY: where a period ends, and that flushes need not be held back any longer.

import { type SQL, sql } from 'drizzle-orm'
import type { Executor } from '../database/client.js'
import { notification } from '../database/listener.js'
import { msOf } from '../database/time.js'

/**
 * `call`: report up to `until`. `taken`: a snapshot of the period that ended then is recorded. `released`: the call ended
 * without one.
 */
export type AnnouncementKind = 'call' | 'taken' | 'released'

export interface Announcement {
  kind: AnnouncementKind
  /** In milliseconds since 1970, by the database's clock. */
  until: number
  /** The replica that announces it. */
  by: string
}

const MESSAGE = /^(call|taken|released) (\d{1,13}) ([0-9a-f-]{36})$/

/** The announcement in a message; undefined if it is none that this version knows. */
export function parseAnnouncement(message: string): Announcement | undefined {
  const [, kind, until, by] = MESSAGE.exec(message) ?? []
  if (kind !== 'call' && kind !== 'taken' && kind !== 'released') return undefined
  return until === undefined || by === undefined ? undefined : { kind, until: Number(until), by }
}

const messageOf = (kind: AnnouncementKind, until: SQL, by: string) =>
  sql`${kind} || ' ' || ${until} || ' ' || ${by}`

/** Announces an end. */
export async function announce(db: Executor, { kind, until, by }: Announcement): Promise<void> {
  await db.execute(sql`select ${notification(messageOf(kind, sql`${until}::bigint`, by))}`)
}

/** Announces a call that ends a part at the present moment by the database's clock, which it returns. */
export async function announceCall(db: Executor, by: string): Promise<number> {
  const [row] = await db.execute<{ until: number }>(sql`
    select until::float8, ${notification(messageOf('call', sql`until`, by))}
    from (select floor(${msOf(sql`clock_timestamp()`)})::bigint as until offset 0) as clock`)
  if (!row) throw new Error('SELECT without FROM returned no row')
  return row.until
}
