// What replicas of a deployment share by name: advisory locks and a channel. Both belong to the whole database, so
// both are derived from the schema of the tables, which another deployment in the same database does not have.

import { type SQL, sql } from 'drizzle-orm'

const NAMESPACE = 0x62757367 // "busg"

const schema = sql`(select oid::int from pg_namespace where nspname = current_schema())`

/** The arguments of the functions for advisory locks. */
const lock = (purpose: number): SQL => sql`${NAMESPACE + purpose}::int, ${schema}`

export const locks = {
  migrate: lock(1),
  snapshot: lock(2),
  /**
   * What the version before this one locks to take a snapshot, in every schema. It takes this exclusively; this
   * version shares it, so that deployments do not wait for each other.
   */
  snapshotBefore: sql`${(BigInt(NAMESPACE) << 32n) | 2n}::bigint`,
}

/** The name of the channel on which replicas notify each other. */
export const channel = sql<string>`'boundary_usage_' || ${schema}`
