// The demo's past: a month in which the same fleet worked, written into the embedded database before the service starts.

import { randomUUID } from 'node:crypto'
import { sql } from 'drizzle-orm'
import { Sketch, type SketchHash, sketchHash } from '../../src/counting/sketch.js'
import { connectDatabase, type Db } from '../../src/database/client.js'
import type * as Embedded from '../../src/database/embedded.js'
import { migrate } from '../../src/database/migrate.js'
import { boundaryUsageReplicas } from '../../src/database/schema.js'
import { readSketchKey } from '../../src/database/settings.js'
import { version } from '../../src/version.js'
import { activityAt, expectedRequests, SPIKE_FACTOR, type Workspace } from './fleet.js'

export const HISTORY_DAYS = 30
/** Marks the history as made up: the page lists it among the replicas. */
export const HISTORY_NAME = 'made-up history'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
const DEADLINE_MS = 60_000
/** A spike of denied requests: how long ago it began and ended. */
const SPIKE_FROM_MS = 3 * DAY_MS
const SPIKE_TO_MS = SPIKE_FROM_MS - 5 * HOUR_MS
/** One person in three joined in the course of the month. */
const NEWCOMERS = 3

/** As built: its worker is a file of its own. */
const { startEmbedded } = (await import(
  new URL('../../dist/database/embedded.js', import.meta.url).href
)) as typeof Embedded

/** A period, by its distance from now in milliseconds. */
interface Period {
  from: number
  to: number
}

/** Writes the history and returns the id of the replica that reports it. */
export async function writeHistory(
  dataDir: string,
  fleet: readonly Workspace[],
  intervalMs: number,
): Promise<string> {
  const embedded = await startEmbedded(dataDir, () => {})
  const database = connectDatabase({ target: { path: embedded.socketPath }, poolMax: 1 })
  try {
    await migrate(database)
    const hash = sketchHash(await database.run(readSketchKey))
    const replicaId = randomUUID()
    const now = Math.floor(Date.now() / intervalMs) * intervalMs
    await database.run(
      (db) =>
        db.transaction(async (tx) => {
          await tx.insert(boundaryUsageReplicas).values({
            replica_id: replicaId,
            name: HISTORY_NAME,
            version,
            started_at: new Date(now - HISTORY_DAYS * DAY_MS),
            last_flush_seq: 1,
            last_flush_at: new Date(now),
            seen_at: new Date(now),
            stopped_at: new Date(now),
            has_ledger: true,
          })
          for (const period of periodsUntil(now, intervalMs))
            await record(tx, replicaId, now, period, activeIn(fleet, period), hash)
        }),
      { deadlineMs: DEADLINE_MS },
    )
    return replicaId
  } finally {
    await database.close()
    await embedded.stop()
  }
}

/** Days, then the hours of the last week, then the intervals of the last hour: as much as each range shows. */
function periodsUntil(now: number, intervalMs: number): Period[] {
  const periods: Period[] = []
  const toMidnight = now % DAY_MS
  const toHour = now % HOUR_MS
  for (let ago = toMidnight + HISTORY_DAYS * DAY_MS; ago > toHour; ) {
    const length = ago > toMidnight + 7 * DAY_MS ? DAY_MS : ago > toHour + HOUR_MS ? HOUR_MS : intervalMs
    periods.push({ from: ago, to: ago - length })
    ago -= length
  }
  for (let ago = toHour; ago > 0; ago -= intervalMs) periods.push({ from: ago, to: ago - intervalMs })
  return periods
}

interface Activity {
  workspaces: readonly Workspace[]
  allowed: number
  denied: number
}

/** Who was there, and what they sent: by day more than by night, and on workdays more than at weekends. */
function activeIn(fleet: readonly Workspace[], { from, to }: Period): Activity {
  const length = from - to
  const middle = (from + to) / 2
  const isLong = length > HOUR_MS
  const daytime = isLong ? 0.55 : 0.55 + 0.45 * Math.cos((2 * Math.PI * middle) / DAY_MS)
  const weekday = new Date(Date.now() - middle).getUTCDay() % 6 === 0 ? 0.4 : 1
  const share = length < HOUR_MS ? activityAt(-middle) : 0.6 * daytime * weekday
  const noise = 0.9 + 0.2 * Math.random()
  const { requests, denied } = expectedRequests(fleet, length)
  const spike = from <= SPIKE_FROM_MS && to >= SPIKE_TO_MS ? SPIKE_FACTOR : 1
  const total = Math.round(requests * share * noise)
  const deniedRequests = Math.round(total * Math.min(1, denied * spike * (0.9 + 0.2 * Math.random())))
  // In an hour of the demo, days of two minutes pass: nearly everybody who works on that day is there for a while.
  const present = length < HOUR_MS ? share : 0.95 * weekday * (isLong ? 1 : daytime)
  return {
    workspaces: fleet.filter((workspace, n) => workspace.hour < present && joinedAgo(n, fleet.length) >= to),
    allowed: total - deniedRequests,
    denied: deniedRequests,
  }
}

/** How long ago the workspace with this number was first used. */
function joinedAgo(n: number, workspaces: number): number {
  return n % NEWCOMERS === 0 ? (1 - n / workspaces) * HISTORY_DAYS * DAY_MS : Number.POSITIVE_INFINITY
}

async function record(
  db: Pick<Db, 'execute'>,
  replicaId: string,
  now: number,
  { from, to }: Period,
  { workspaces, allowed, denied }: Activity,
  hash: SketchHash,
): Promise<void> {
  const users = new Set(workspaces.map(({ ownerId }) => ownerId))
  const start = new Date(now - from).toISOString()
  const end = new Date(now - to).toISOString()
  const sketchOf = (ids: Iterable<string>) => {
    const sketch = new Sketch()
    for (const id of ids) sketch.add(hash(id))
    return sketch.toBitString()
  }
  await db.execute(sql`insert into telemetry_snapshots
    (id, trigger, reported_by, replicas, period_start, period_end, taken_at, unique_workspaces, unique_users,
     unique_workspaces_summed, unique_users_summed, allowed_requests, denied_requests, late_replicas,
     workspaces_sketch, users_sketch)
    values (${randomUUID()}, 'schedule', ${replicaId}, 1, ${start}, ${end}, ${end}, ${workspaces.length}, ${users.size},
     ${workspaces.length}, ${users.size}, ${allowed}, ${denied}, 0,
     ${sketchOf(workspaces.map(({ workspaceId }) => workspaceId))}::varbit::bit(196608), ${sketchOf(users)}::varbit::bit(196608))`)
}
