// Random sequences of everything that happens to replicas, against a real PostgreSQL and a model of what must hold.
//
// After every step, for allowed and for denied requests: what was tracked = snapshots + rows + memory + what crashed
// replicas held; and each row's distinct counts are those of the ids flushed into it. SEED=… replays a run.

import { randomInt, randomUUID } from 'node:crypto'
import fc from 'fast-check'
import type postgres from 'postgres'
import t from 'tap'
import type { Database } from '../../src/database/client.js'
import { takeSnapshot } from '../../src/telemetry/snapshot.js'
import { applyFlush } from '../../src/usage/flush.js'
import { Flusher } from '../../src/usage/flusher.js'
import { Tracker } from '../../src/usage/tracker.js'
import { testDatabase } from '../helpers/database.js'

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
  readonly tracker = new Tracker()
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
  step(`snapshot(${fails ? 'fails' : 'commits'})`, async (_model, real) => {
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
    // Rows of crashed replicas are in it as well.
    const atLeast = real.replicas.reduce((sum, { row }) => sum + (row?.workspaces.size ?? 0), 0)
    const { unique_workspaces_summed: summed } = outcome.snapshot
    if (summed < atLeast) throw new Error(`${summed} distinct workspaces, at least ${atLeast} were flushed`)
    for (const replica of real.replicas) replica.row = undefined
  })

/** Everybody flushes while a snapshot is taken: who comes first is the database's choice. */
const together = () =>
  step('together()', async (_model, real) => {
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
    model.crashed = add(model.crashed, at(real, index).held)
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

  const rows = await real.sql<{ replica_id: string; workspaces: number; users: number }[]>`
    select replica_id, unique_workspaces_count::int as workspaces, unique_users_count::int as users
    from boundary_usage_stats`
  for (const { id, row } of real.replicas) {
    const found = rows.find(({ replica_id }) => replica_id === id)
    const expected = row && { workspaces: row.workspaces.size, users: row.users.size }
    const actual = found && { workspaces: found.workspaces, users: found.users }
    if (JSON.stringify(actual) !== JSON.stringify(expected))
      throw new Error(`a row has ${JSON.stringify(actual)}, flushed into it were ${JSON.stringify(expected)}`)
  }
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
  await fc.assert(
    fc.asyncProperty(steps, async (sequence) => {
      await sql`truncate boundary_usage_stats, boundary_usage_replicas, telemetry_snapshots`
      await fc.asyncModelRun(
        () => ({
          model: { tracked: none(), crashed: none() },
          real: { database, sql, replicas: Array.from({ length: REPLICAS }, () => new Replica(database)) },
        }),
        sequence,
      )
    }),
    { seed, numRuns: 200, interruptAfterTimeLimit: 60_000 },
  )
  t.pass('200 sequences of up to 60 steps')
})
