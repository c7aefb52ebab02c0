// Which replicas have not reported up to the end of a period, and the wait for them.

import { sql } from 'drizzle-orm'
import { pause } from '../async.js'
import { isLive } from '../counting/replica.js'
import type { Executor } from '../database/client.js'
import { msOf, timeOf } from '../database/time.js'

const FIRST_POLL_MS = 5
const LONGEST_POLL_MS = 50

interface Late {
  /** The database's clock. */
  now_ms: number
  /** Live replicas that have not reported. */
  unreported: number
  /** Replicas of a version that does not report, which may have usage in memory. Nobody waits for them. */
  older: number
}

/** What a replica tracked before it started is nothing, so one that started after `until` is not late. */
async function readLate(db: Executor, until: number): Promise<Late> {
  const [late] = await db.execute<Late & Record<string, unknown>>(sql`
    select floor(${msOf(sql`clock_timestamp()`)})::float8 as now_ms,
      count(*) filter (where ${isLive} and coalesce(reported_until, started_at) < ${timeOf(until)})::int as unreported,
      count(*) filter (where seen_at is null and stopped_at is null
        and last_flush_at > clock_timestamp() - interval '1 hour')::int as older
    from boundary_usage_replicas as replica`)
  if (!late) throw new Error('an aggregate without GROUP BY returned no row')
  return late
}

/**
 * Waits until every live replica has reported up to `until`, for at most `graceMs`. Resolves with the number of replicas
 * that are late then, and the database's clock. In a transaction, it must be of isolation level read committed.
 */
export async function waitForReports(
  db: Executor,
  until: number,
  graceMs: number,
): Promise<{ late: number; now: Date }> {
  const deadline = performance.now() + graceMs
  for (let waitMs = FIRST_POLL_MS; ; waitMs = Math.min(2 * waitMs, LONGEST_POLL_MS)) {
    const { unreported, older, now_ms } = await readLate(db, until)
    const leftMs = deadline - performance.now()
    if (unreported === 0 || leftMs <= 0) return { late: unreported + older, now: new Date(now_ms) }
    await pause(Math.min(waitMs, leftMs))
  }
}
