// Random sequences of everything that happens to replicas, against a real PostgreSQL and a model of what must hold.
//
// After every step: what was tracked = snapshots + rows + duplicates + memory + what crashed replicas held, and each of
// these figures is the model's; and each row's distinct counts and sketches are those of the ids flushed into it. A
// snapshot's distinct counts are those of all ids flushed, whichever replicas saw them. At the end, when every session
// has sent its last log and gone silent: numbers sent = allowed + denied + skipped + missing - recovered. SEED=… replays
// a run.

import { createHash, randomInt, randomUUID } from 'node:crypto'
import fc from 'fast-check'
import type postgres from 'postgres'
import t from 'tap'
import { applyFlush } from '../../src/counting/flush.js'
import { Flusher } from '../../src/counting/flusher.js'
import type { Decision } from '../../src/counting/sessions.js'
import { SKETCH_BITS, Sketch } from '../../src/counting/sketch.js'
import type { Database } from '../../src/database/client.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { cases } from '../helpers/effort.js'
import { batchOf } from '../helpers/numbers.js'
import { hash, newTracker } from '../helpers/tracker.js'

const REPLICAS = 3
const SESSIONS = 3

/** How a flush goes: the answer comes, is lost after the commit, or nothing reaches the server. */
type Fate = 'answered' | 'lost' | 'cut'

interface Counts {
  allowed: number
  denied: number
}

/** What snapshots and usage rows contain. */
interface Stored extends Counts {
  duplicates: number
  missing: number
  recovered: number
}

/** A log of a session. A number always has the same decision, as when its agent retries it. */
interface Log {
  session: number
  number: number
}

const decisionOf = (number: number): Decision =>
  number % 11 === 3 ? 'skipped' : number % 4 === 0 ? 'denied' : 'allowed'

/** What the database knows of a session. */
interface Known {
  received: Set<number>
  /** Holes below it have been reported. */
  toldTo: number
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
  frozen: { ids: Ids; counts: Counts; logs: Log[]; isApplied: boolean } | undefined
  /** Without a session. */
  pendingCounts = none()
  pendingLogs: Log[] = []
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
  flushed(fate: Fate, model: Model): void {
    for (let first = this.frozen !== undefined; ; first = false) {
      if (!first && this.pendingCounts.allowed + this.pendingCounts.denied + this.pendingLogs.length === 0)
        return
      if (!first) {
        this.frozen = {
          ids: this.pending,
          counts: this.pendingCounts,
          logs: this.pendingLogs,
          isApplied: false,
        }
        this.pending = noIds()
        this.pendingCounts = none()
        this.pendingLogs = []
      }
      const { frozen } = this
      if (!frozen) return
      if (fate !== 'cut' && !frozen.isApplied) {
        this.row = union(this.row, frozen.ids)
        frozen.isApplied = true
        store(model, frozen.counts, frozen.logs)
      }
      if (fate !== 'answered') return
      this.frozen = undefined
      if (!first) return
    }
  }

  /** How many requests are in memory alone. */
  get held(): number {
    const { frozen } = this
    const pending = requests(this.pendingCounts, this.pendingLogs)
    return pending + (frozen && !frozen.isApplied ? requests(frozen.counts, frozen.logs) : 0)
  }
}

/** How many requests were tracked, duplicates included. */
const requests = ({ allowed, denied }: Counts, logs: Log[]) =>
  allowed + denied + logs.filter(({ number }) => decisionOf(number) !== 'skipped').length

/** The model's ledger: a number counts once, and is recovered if it was reported as missing. */
function store({ stored, sessions }: Model, counts: Counts, logs: Log[]): void {
  stored.allowed += counts.allowed
  stored.denied += counts.denied
  for (const { session, number } of logs) {
    const decision = decisionOf(number)
    const known = sessions.get(session) ?? { received: new Set(), toldTo: 0 }
    sessions.set(session, known)
    if (known.received.has(number)) {
      if (decision !== 'skipped') stored.duplicates++
      continue
    }
    known.received.add(number)
    if (decision !== 'skipped') stored[decision]++
    if (number < known.toldTo) stored.recovered++
  }
}

/** What a snapshot reports when all sessions are silent. */
function tell({ stored, sessions }: Model): void {
  for (const known of sessions.values()) {
    const highest = Math.max(...known.received)
    for (let number = known.toldTo; number < highest; number++)
      if (!known.received.has(number)) stored.missing++
    known.toldTo = Math.max(known.toldTo, highest + 1)
  }
}

interface Model {
  /** Requests, duplicates included. */
  tracked: number
  crashed: number
  stored: Stored
  sessions: Map<number, Known>
  /** What crashed replicas had flushed into rows that are there now. */
  left: Ids[]
}

interface Real {
  database: Database
  sql: postgres.Sql
  replicas: Replica[]
}

const none = (): Counts => ({ allowed: 0, denied: 0 })
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
    replica.pendingCounts.allowed += counts.allowed
    replica.pendingCounts.denied += counts.denied
    model.tracked += counts.allowed + counts.denied
  })

/** A batch of a session: new logs, or any that were sent before, to any replica. */
const trackLogs = (index: number, session: number, numbers: number[]) =>
  step(`trackLogs(${index}, ${session}, ${JSON.stringify(numbers)})`, async (model, real) => {
    const replica = at(real, index)
    const batch = batchOf(new Map(numbers.map((number) => [number, decisionOf(number)])))
    const logs = numbers.map((number) => ({ session, number }))
    replica.tracker.track('w', `u${session}`, batch.allowed, batch.denied, {
      id: `s${session}`,
      numbers: batch.numbers,
    })
    if (batch.allowed + batch.denied > 0) {
      replica.pending.workspaces.add('w')
      replica.pending.users.add(`u${session}`)
    }
    replica.pendingLogs.push(...logs)
    model.tracked += batch.allowed + batch.denied
  })

const flush = (index: number, fate: Fate) =>
  step(`flush(${index}, ${fate})`, async (model, real) => {
    const replica = at(real, index)
    replica.fate = fate
    await replica.flusher.flush().catch(() => {}) // as fate has it
    replica.flushed(fate, model)
  })

const snapshot = (fails: boolean) =>
  step(`snapshot(${fails ? 'fails' : 'commits'})`, async (model, real) => {
    const taking = real.database.run((db) =>
      db.transaction(async (tx) => {
        const request = { trigger: 'manual', reportedBy: randomUUID(), silenceMs: 0 } as const
        const outcome = await takeSnapshot(tx as unknown as typeof db, request)
        if (fails) throw new Error('fails before its commit')
        return outcome
      }),
    )
    if (fails) return void (await taking.catch(() => {})) // as it should
    const outcome = await taking
    if (outcome.result !== 'taken') throw new Error(outcome.result)
    tell(model)
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
      replica.flushed('answered', model)
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
    model.crashed += held
    if (row) model.left.push(row)
    real.replicas[index] = new Replica(real.database)
  })

/** The law. */
async function holds(model: Model, real: Real): Promise<void> {
  const [found] = await real.sql<Stored[]>`
    select coalesce(sum(allowed), 0)::int as allowed, coalesce(sum(denied), 0)::int as denied,
      coalesce(sum(duplicates), 0)::int as duplicates, coalesce(sum(missing), 0)::int as missing,
      coalesce(sum(recovered), 0)::int as recovered
    from (
      select allowed_requests, denied_requests, duplicate_requests, missing_requests, recovered_requests
      from boundary_usage_stats
      union all
      select allowed_requests, denied_requests, duplicate_requests, missing_requests, recovered_requests
      from telemetry_snapshots
    ) as everywhere (allowed, denied, duplicates, missing, recovered)`
  const { stored, tracked, crashed } = model
  if (JSON.stringify(found) !== JSON.stringify(stored))
    throw new Error(`stored ${JSON.stringify(found)}, expected ${JSON.stringify(stored)}`)
  const held = real.replicas.reduce((sum, replica) => sum + replica.held, 0)
  const accounted = stored.allowed + stored.denied + stored.duplicates + held + crashed
  if (accounted !== tracked) throw new Error(`tracked ${tracked}, accounted for ${accounted}`)

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

/** Every session sends its last log and goes silent. */
async function balances(model: Model, real: Real): Promise<void> {
  const last = 100
  const sessions = [...Array(SESSIONS).keys()]
  for (const session of sessions) await trackLogs(0, session, [last]).run(model, real)
  for (const index of real.replicas.keys()) await flush(index, 'answered').run(model, real)
  await snapshot(false).run(model, real)
  const { stored, sessions: known } = model
  const skipped = [...known.values()].flatMap(({ received }) => [...received]).filter(isSkipped).length
  const { missing, recovered } = stored
  const counted = [...known.values()].flatMap(({ received }) => [...received]).length - skipped
  if (counted + skipped + missing - recovered !== SESSIONS * (last + 1))
    throw new Error(`${counted} counted, ${skipped} skipped, ${missing} missing, ${recovered} recovered`)
}

const isSkipped = (number: number) => decisionOf(number) === 'skipped'

/** As md5(bit_send(…)) gives it: a sketch's bits behind their number. */
function sketchDigest(ids: Set<string>): string {
  const sketch = new Sketch()
  for (const id of ids) sketch.add(hash(id))
  const bytes = Buffer.alloc(4 + SKETCH_BITS / 8)
  bytes.writeUInt32BE(SKETCH_BITS)
  bytes.write(sketch.toBitString().slice(1), 4, 'hex')
  return createHash('md5').update(bytes).digest('hex')
}

t.test(
  'conservation, distinct counts and the balance of sessions hold after any sequence of faults',
  async (t) => {
    const { database, sql } = await testDatabase(t)
    const index = fc.nat(REPLICAS - 1)
    const small = fc.nat(5)
    const counts = fc.record({ allowed: fc.integer({ min: 1, max: 9 }), denied: fc.nat(9) })
    const fate = fc.constantFrom<Fate>('answered', 'answered', 'lost', 'cut')
    const tracks = fc.tuple(index, small, small, counts).map(([i, w, u, c]) => track(i, `w${w}`, `u${u}`, c))
    const numbers = fc.uniqueArray(fc.nat(60), { minLength: 1, maxLength: 20 })
    const sessions = fc
      .tuple(index, fc.nat(SESSIONS - 1), numbers)
      .map(([i, session, list]) => trackLogs(i, session, list))
    const flushes = fc.tuple(index, fate).map((args) => flush(...args))
    const steps = fc.commands(
      [
        tracks,
        sessions,
        sessions,
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
        await sql`truncate boundary_usage_stats, boundary_usage_replicas, boundary_usage_sessions, telemetry_snapshots`
        const stored = { allowed: 0, denied: 0, duplicates: 0, missing: 0, recovered: 0 }
        const model: Model = { tracked: 0, crashed: 0, stored, sessions: new Map(), left: [] }
        const replicas = Array.from({ length: REPLICAS }, () => new Replica(database))
        const real: Real = { database, sql, replicas }
        await fc.asyncModelRun(() => ({ model, real }), sequence)
        await balances(model, real)
        finished++
      }),
      { seed, numRuns: sequences },
    )
    t.equal(finished, sequences, `${finished} sequences of up to 60 steps`)
  },
)
