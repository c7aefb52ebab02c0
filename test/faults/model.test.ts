// Random sequences of everything that happens to replicas, against a real PostgreSQL and a model of what must hold.
//
// After every step, for allowed and for denied requests: what was tracked = snapshots + rows + memory + what crashed
// replicas held; and each row's distinct counts and sketches are those of the ids flushed into it. A snapshot's
// distinct counts are those of all ids flushed, whichever replicas saw them. SEED=… replays a run.

import { createHash, randomInt, randomUUID } from 'node:crypto'
import fc from 'fast-check'
import type postgres from 'postgres'
import t from 'tap'
import { applyFlush } from '../../src/counting/flush.js'
import { Flusher } from '../../src/counting/flusher.js'
import { SKETCH_BITS, Sketch } from '../../src/counting/sketch.js'
import type { Database } from '../../src/database/client.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { cases } from '../helpers/effort.js'
import { hash, newTracker } from '../helpers/tracker.js'

const REPLICAS = 3

/** How a flush goes: the answer comes, is lost after the commit, or nothing reaches the server. */
type Fate = 'answered' | 'lost' | 'cut'

interface Counts {
  allowed: number
  denied: number
}

interface Ids {
  workspaces: Set<string>
  users: Set<string>
}

/** A replica: what is real of it, and beside it what the model knows. */
class Replica {
  readonly id = randomUUID()
  readonly tracker = newTracker()
  fate: Fate = 'answered'
  readonly flusher: Flusher
  /** Since the last batch was frozen. */
  pending = noIds()
  /** In the batch that is frozen and not settled, and whether the database has it. */
  frozen: { ids: Ids; counts: Counts; isApplied: boolean } | undefined
  pendingCounts = none()
  /** Flushed into the row that is there now. */
  row: Ids | undefined

  constructor(database: Database) {
    this.flusher = new Flusher({
      tracker: this.tracker,
      apply: async (batch) => {
        if (this.fate === 'cut') throw new Error('cut')
        const replica = { replicaId: this.id, name: 'test', version: '0.0.0' }
        const outcome = await database.run((db) => applyFlush(db, replica, batch))
        if (this.fate === 'lost') throw new Error('lost')
        return outcome
      },
    })
  }

  /** The model's part of a flush; the batch that was tried before goes first, then what came since. */
  flushed(fate: Fate): void {
    for (let first = this.frozen !== undefined; ; first = false) {
      if (!first && this.pendingCounts.allowed + this.pendingCounts.denied === 0) return
      if (!first) {
        this.frozen = { ids: this.pending, counts: this.pendingCounts, isApplied: false }
        this.pending = noIds()
        this.pendingCounts = none()
      }
      const { frozen } = this
      if (!frozen) return
      if (fate !== 'cut' && !frozen.isApplied) {
        this.row = union(this.row, frozen.ids)
        frozen.isApplied = true
      }
      if (fate !== 'answered') return
      this.frozen = undefined
      if (!first) return
    }
  }

  /** What is in memory alone. */
  get held(): Counts {
    return add(this.pendingCounts, this.frozen && !this.frozen.isApplied ? this.frozen.counts : none())
  }
}

interface Model {
  tracked: Counts
  crashed: Counts
  /** What crashed replicas had flushed into rows that are there now. */
  left: Ids[]
}

interface Real {
  database: Database
  sql: postgres.Sql
  replicas: Replica[]
}

const none = (): Counts => ({ allowed: 0, denied: 0 })
const add = (a: Counts, b: Counts): Counts => ({
  allowed: a.allowed + b.allowed,
  denied: a.denied + b.denied,
})
const noIds = (): Ids => ({ workspaces: new Set(), users: new Set() })
const union = (a: Ids | undefined, b: Ids): Ids => ({
  workspaces: new Set([...(a?.workspaces ?? []), ...b.workspaces]),
  users: new Set([...(a?.users ?? []), ...b.users]),
})

type Act = (model: Model, real: Real) => Promise<void>

/** A step of a sequence: does what it is for, then sees whether the law holds. */
const step = (name: string, act: Act): fc.AsyncCommand<Model, Real> => ({
  check: () => true,
  async run(model, real) {
    await act(model, real)
    await holds(model, real)
  },
  toString: () => name,
})

function at(real: Real, index: number): Replica {
  const replica = real.replicas[index]
  if (!replica) throw new Error(`no replica ${index}`)
  return replica
}

const track = (index: number, workspace: string, user: string, counts: Counts) =>
  step(`track(${index}, ${workspace}, ${user}, ${JSON.stringify(counts)})`, async (model, real) => {
    const replica = at(real, index)
    replica.tracker.track(workspace, user, counts.allowed, counts.denied)
    replica.pending.workspaces.add(workspace)
    replica.pending.users.add(user)
    replica.pendingCounts = add(replica.pendingCounts, counts)
    model.tracked = add(model.tracked, counts)
  })

const flush = (index: number, fate: Fate) =>
  step(`flush(${index}, ${fate})`, async (_model, real) => {
    const replica = at(real, index)
    replica.fate = fate
    await replica.flusher.flush().catch(() => {}) // as fate has it
    replica.flushed(fate)
  })

const snapshot = (fails: boolean) =>
  step(`snapshot(${fails ? 'fails' : 'commits'})`, async (model, real) => {
    const taking = real.database.run((db) =>
      db.transaction(async (tx) => {
        const request = { trigger: 'manual', reportedBy: randomUUID() } as const
        const outcome = await takeSnapshot(tx as unknown as typeof db, request)
        if (fails) throw new Error('fails before its commit')
        return outcome
      }),
    )
    if (fails) return void (await taking.catch(() => {})) // as it should
    const outcome = await taking
    if (outcome.result !== 'taken') throw new Error(outcome.result)
    const rows = [...model.left, ...real.replicas.flatMap(({ row }) => row ?? [])]
    const all = rows.reduce(union, noIds())
    const { snapshot } = outcome
    for (const [kind, found, summed] of [
      ['workspaces', snapshot.unique_workspaces, snapshot.unique_workspaces_summed],
      ['users', snapshot.unique_users, snapshot.unique_users_summed],
    ] as const) {
      const sum = rows.reduce((total, row) => total + row[kind].size, 0)
      if (summed !== sum) throw new Error(`${summed} ${kind} summed, ${sum} were flushed`)
      // An estimate: two ids may share a bit.
      if (Math.abs(found - all[kind].size) > 1)
        throw new Error(`${found} distinct ${kind}, ${all[kind].size} were flushed`)
    }
    model.left = []
    for (const replica of real.replicas) replica.row = undefined
  })

/** Everybody flushes while a snapshot is taken: who comes first is the database's choice. */
const together = () =>
  step('together()', async (model, real) => {
    model.left = []
    const seqs = real.replicas.map(({ tracker }) => tracker.pendingSeq)
    for (const replica of real.replicas) replica.fate = 'answered'
    await Promise.all([
      real.database.run((db) => takeSnapshot(db, { trigger: 'manual', reportedBy: randomUUID() })),
      ...real.replicas.map(({ flusher }) => flusher.flush()),
    ])
    const rows = await real.sql<{ replica_id: string; first: number }[]>`
      select replica_id, first_flush_seq::int as first from boundary_usage_stats`
    for (const [index, replica] of real.replicas.entries()) {
      const { frozen, pending } = replica
      const seq = seqs[index] ?? 0
      replica.flushed('answered')
      const row = rows.find(({ replica_id }) => replica_id === replica.id)
      if (!row) replica.row = undefined
      // The row was made by the flush of what was pending, or by the one that went before it.
      else if (row.first === seq) replica.row = pending
      else if (frozen && row.first === seq - 1) replica.row = union(frozen.ids, pending)
    }
  })

/** SIGKILL, and a new process in its place. */
const crash = (index: number) =>
  step(`crash(${index})`, async (model, real) => {
    const { held, row } = at(real, index)
    model.crashed = add(model.crashed, held)
    if (row) model.left.push(row)
    real.replicas[index] = new Replica(real.database)
  })

/** The law. */
async function holds(model: Model, real: Real): Promise<void> {
  const [stored] = await real.sql<Counts[]>`
    select coalesce(sum(allowed_requests), 0)::int as allowed, coalesce(sum(denied_requests), 0)::int as denied
    from (
      select allowed_requests, denied_requests from boundary_usage_stats
      union all select allowed_requests, denied_requests from telemetry_snapshots
    ) as everywhere`
  const accounted = [stored ?? none(), model.crashed, ...real.replicas.map((replica) => replica.held)].reduce(
    add,
  )
  if (JSON.stringify(accounted) !== JSON.stringify(model.tracked))
    throw new Error(`tracked ${JSON.stringify(model.tracked)}, accounted for ${JSON.stringify(accounted)}`)

  const rows = await real.sql<{ replica_id: string; found: unknown }[]>`
    select replica_id, json_build_object(
      'workspaces', unique_workspaces_count, 'users', unique_users_count,
      'workspaces_sketch', md5(bit_send(workspaces_sketch)), 'users_sketch', md5(bit_send(users_sketch))) as found
    from boundary_usage_stats`
  for (const { id, row } of real.replicas) {
    const found = rows.find(({ replica_id }) => replica_id === id)?.found
    const expected = row && {
      workspaces: row.workspaces.size,
      users: row.users.size,
      workspaces_sketch: sketchDigest(row.workspaces),
      users_sketch: sketchDigest(row.users),
    }
    if (JSON.stringify(found) !== JSON.stringify(expected))
      throw new Error(`a row has ${JSON.stringify(found)}, flushed into it was ${JSON.stringify(expected)}`)
  }
}

/** As md5(bit_send(…)) gives it: a sketch's bits behind their number. */
function sketchDigest(ids: Set<string>): string {
  const sketch = new Sketch()
  for (const id of ids) sketch.add(hash(id))
  const bytes = Buffer.alloc(4 + SKETCH_BITS / 8)
  bytes.writeUInt32BE(SKETCH_BITS)
  bytes.write(sketch.toBitString().slice(1), 4, 'hex')
  return createHash('md5').update(bytes).digest('hex')
}

t.test('conservation and distinct counts hold after any sequence of faults', async (t) => {
  const { database, sql } = await testDatabase(t)
  const index = fc.nat(REPLICAS - 1)
  const small = fc.nat(5)
  const counts = fc.record({ allowed: fc.integer({ min: 1, max: 9 }), denied: fc.nat(9) })
  const fate = fc.constantFrom<Fate>('answered', 'answered', 'lost', 'cut')
  const tracks = fc.tuple(index, small, small, counts).map(([i, w, u, c]) => track(i, `w${w}`, `u${u}`, c))
  const flushes = fc.tuple(index, fate).map((args) => flush(...args))
  const steps = fc.commands(
    [
      tracks,
      tracks,
      flushes,
      flushes,
      fc.boolean().map(snapshot),
      fc.constant(null).map(together),
      index.map(crash),
    ],
    { maxCommands: 60, size: 'max' },
  )
  const seed = Number(process.env.SEED ?? randomInt(2 ** 31))
  t.comment(`SEED=${seed}`)
  const sequences = cases({ suite: 40, soak: 200 })
  let finished = 0
  await fc.assert(
    fc.asyncProperty(steps, async (sequence) => {
      await sql`truncate boundary_usage_stats, boundary_usage_replicas, telemetry_snapshots`
      await fc.asyncModelRun(
        () => ({
          model: { tracked: none(), crashed: none(), left: [] },
          real: { database, sql, replicas: Array.from({ length: REPLICAS }, () => new Replica(database)) },
        }),
        sequence,
      )
      finished++
    }),
    { seed, numRuns: sequences },
  )
  t.equal(finished, sequences, `${finished} sequences of up to 60 steps`)
})
