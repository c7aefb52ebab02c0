// Replicas and their sessions, without processes: trackers, and flushes when the test says so.

import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { applyFlush } from '../../src/counting/flush.js'
import type { Database } from '../../src/database/client.js'
import { type Numbers, runsOf } from './numbers.js'
import { keyOf, newTracker } from './tracker.js'

/** A replica that counts for the workspace `w`. */
export function newReplica(database: Database) {
  const replica = { replicaId: randomUUID(), name: 'test', version: '0.0.0' }
  const tracker = newTracker()
  return {
    replicaId: replica.replicaId,
    track(session: string, { allowed = [], denied = [], skipped = [] }: Numbers, user = 'o') {
      const count = (runs: readonly number[]) =>
        runs.reduce((sum, bound, index) => (index % 2 === 0 ? sum - bound : sum + bound), 0)
      const numbers = runsOf({ allowed, denied, skipped })
      tracker.track('w', user, count(allowed), count(denied), { id: session, numbers })
    },
    async flush() {
      const flush = tracker.nextFlush()
      if (!flush) throw new Error('nothing to flush')
      const outcome = await database.run((db) => applyFlush(db, replica, flush))
      tracker.settle(flush, outcome.newPeriod, outcome.storedRuns)
      return { ...outcome, form: flush.hasNewIds ? ('full' as const) : ('lean' as const) }
    },
  }
}

/** The sums of all usage rows. */
export async function sums(sql: postgres.Sql) {
  const [row] = await sql`
    select sum(allowed_requests)::int as allowed, sum(denied_requests)::int as denied,
      sum(duplicate_requests)::int as duplicates, sum(missing_requests)::float8 as missing,
      sum(recovered_requests)::int as recovered
    from boundary_usage_stats`
  return { ...row }
}

/** The row of a session of the workspace `w`. */
export async function sessionOf(sql: postgres.Sql, session: string) {
  const [row] = await sql`
    select received::text, counted_from::float8, told_to::float8 from boundary_usage_sessions
    where session_key = ${keyOf('w', session)}`
  return row && { ...row }
}
