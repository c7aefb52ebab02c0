// Times as the statements need them, whatever the defaults of a role or a database are.

import { type SQL, sql } from 'drizzle-orm'

/** The moment `ms` milliseconds after the start of 1970; null if there is none. */
export function timeOf(ms: number | undefined): SQL {
  return sql`${ms === undefined ? null : new Date(ms).toISOString()}::timestamptz`
}

/** A time in milliseconds since 1970, with fractions. */
export function msOf(time: SQL): SQL<number> {
  return sql<number>`(extract(epoch from ${time}) * 1000)::float8`
}
