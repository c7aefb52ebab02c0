// A fleet of replicas that there is only in the database: flushes as theirs, from one process.

import { randomUUID } from 'node:crypto'
import { DistinctIds } from '../../src/counting/distinct-ids.js'
import { applyFlush } from '../../src/counting/flush.js'
import { Sessions, sessionHash } from '../../src/counting/sessions.js'
import { sketchHash } from '../../src/counting/sketch.js'
import type { Database } from '../../src/database/client.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'

const key = Buffer.alloc(32, 3)
const hash = sketchHash(key)
const keyOf = sessionHash(key)

/** How many ids of each kind a replica has in its sketches. */
const IDS = 1_000

export interface Member {
  readonly replicaId: string
  flushSeq: number
}

export function newFleet(replicas: number): Member[] {
  return Array.from({ length: replicas }, () => ({ replicaId: randomUUID(), flushSeq: 0 }))
}

function ids(count: number): DistinctIds {
  const made = new DistinctIds(count)
  for (let n = 0; n < count; n++) made.add(`id-${n}`, hash(`id-${n}`))
  return made
}

const MANY = ids(IDS)
const NEW = ids(1)

/** What a flush carries: all ids of a period that it opens, one new id, or counts alone. */
export type Carries = 'opening' | 'new id' | 'counts'

export async function flush(
  database: Database,
  member: Member,
  carries: Carries,
  reportedUntil?: number,
): Promise<void> {
  const distinct = carries === 'opening' ? MANY : NEW
  const batch = {
    flushSeq: ++member.flushSeq,
    workspaces: distinct,
    users: distinct,
    hasNewIds: carries !== 'counts',
    periodWorkspaces: IDS,
    periodUsers: IDS,
    allowedRequests: 90,
    deniedRequests: 10,
    sessions: new Sessions(),
    keyOf,
    since: 0,
    reportedUntil,
  }
  const replica = { replicaId: member.replicaId, name: 'bench', version: '0' }
  await database.run((db) => applyFlush(db, replica, batch))
}

/** Runs `work` for each item, so many at a time. */
export async function inParallel<T>(
  items: Iterable<T>,
  workers: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const left = items[Symbol.iterator]()
  await Promise.all(
    Array.from({ length: workers }, async () => {
      for (let next = left.next(); !next.done; next = left.next()) await work(next.value)
    }),
  )
}

/** Milliseconds that it took. */
export async function snapshot(database: Database): Promise<number> {
  const start = performance.now()
  const { result } = await database.run((db) =>
    takeSnapshot(db, { trigger: 'manual', reportedBy: randomUUID() }),
  )
  if (result !== 'taken') throw new Error(result)
  return performance.now() - start
}
