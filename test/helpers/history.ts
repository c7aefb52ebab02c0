// A past that is written straight into the database.

import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { Sketch } from '../../src/counting/sketch.js'
import { hash } from './tracker.js'

/** Records a snapshot of the half hour that ended then, with these users, 10 requests allowed and 1 denied. */
export async function recordSnapshot(sql: postgres.Sql, end: string, users: string[]): Promise<void> {
  const sketch = new Sketch()
  for (const user of users) sketch.add(hash(user))
  const bits = sketch.toBitString()
  await sql`insert into telemetry_snapshots
    (id, trigger, reported_by, replicas, period_start, period_end, taken_at, unique_workspaces, unique_users,
     unique_workspaces_summed, unique_users_summed, allowed_requests, denied_requests, workspaces_sketch, users_sketch)
    values (${randomUUID()}, 'schedule', ${randomUUID()}, 1, ${end}::timestamptz - interval '30 minutes', ${end}, ${end},
     ${users.length}, ${users.length}, ${users.length}, ${users.length}, 10, 1,
     ${bits}::varbit::bit(196608), ${bits}::varbit::bit(196608))`
}
