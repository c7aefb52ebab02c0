// A past that is written straight into the database.

import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { Sketch } from '../../src/counting/sketch.js'
import { hash } from './tracker.js'

/**
 * Records a snapshot of the half hour that ended then, with these users, 10 requests allowed and 1 denied, as a version
 * without days does: it is not in its day. Returns its id.
 */
export async function recordSnapshot(
  sql: postgres.Sql,
  end: string,
  users: Iterable<string>,
  { hasSketches = true } = {},
): Promise<string> {
  const id = randomUUID()
  const sketch = new Sketch()
  let count = 0
  for (const user of users) {
    sketch.add(hash(user))
    count++
  }
  const bits = hasSketches ? sketch.toBitString() : null
  await sql`insert into telemetry_snapshots
    (id, trigger, reported_by, replicas, period_start, period_end, taken_at, unique_workspaces, unique_users,
     unique_workspaces_summed, unique_users_summed, allowed_requests, denied_requests, workspaces_sketch, users_sketch)
    values (${id}, 'schedule', ${randomUUID()}, 1, ${end}::timestamptz - interval '30 minutes', ${end}, ${end},
     ${count}, ${count}, ${count}, ${count}, 10, 1,
     ${bits}::text::varbit::bit(196608), ${bits}::text::varbit::bit(196608))`
  return id
}
