// Random sequences of everything that happens to replicas, against a real PostgreSQL and a model of what must hold.
//
// After every step: what was tracked = snapshots + rows + duplicates + memory + what crashed replicas held, and each of
// these figures is the model's; and each row's distinct counts and sketches are those of the ids flushed into it. A
// snapshot's distinct counts are those of all ids flushed, whichever replicas saw them. A replica has reported up to a
// moment if and only if the database has all that it tracked before, and what it tracks after a cut is not flushed while
// it is held back. At the end, when every session has sent its last log and gone silent: numbers sent = allowed + denied
// + skipped + missing - recovered. SEED=… replays a run.

import { createHash, randomInt, randomUUID } from 'node:crypto'
import fc from 'fast-check'
import type postgres from 'postgres'
import t from 'tap'
import { applyFlush } from '../../src/counting/flush.js'
import { Flusher } from '../../src/counting/flusher.js'
import { SKETCH_BITS, Sketch } from '../../src/counting/sketch.js'
import type { Database } from '../../src/database/client.js'
import type { Decision } from '../../src/ingest/runs.js'
import { takeSnapshot } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { cases } from '../helpers/effort.js'
import { batchOf, runsOf } from '../helpers/numbers.js'
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

/** What one flush carries. */
interface Part {
  ids: Ids
  /** Without a session. */
  counts: Counts
  logs: Log[]
  /** Set if it was sealed. */
  until: number | undefined
  /** Whether the database has it. */
  isApplied: boolean
}

const emptyPart = (): Part => ({
  ids: noIds(),
  counts: none(),
  logs: [],
  until: undefined,
  isApplied: false,
})
const isEmpty = ({ counts, logs }: Part) => counts.allowed + counts.denied + logs.length === 0

/** How many parts a tracker seals at most. */
const SEALED_PARTS = 8

/** A replica: what is real of it, and beside it what the model knows. */
class Replica {
  readonly id = randomUUID()
  readonly tracker = newTracker()
  fate: Fate = 'answered'
  readonly flusher: Flusher
  /** Since the last part was frozen or sealed. */
  pending = emptyPart()
  /** In the order of their cuts. */
  readonly sealed: Part[] = []
  /** A cut that waits until the tracker can seal another part. */
  wanted: number | undefined
  /** Attempted and not settled. */
  frozen: Part | undefined
  /** What the database has of its reports. */
  reported: number | undefined
  /** While flushes are held back: the number of the first that must not be attempted. */
  heldFrom = Number.POSITIVE_INFINITY
  /** Flushed into the row that is there now. */
  row: Ids | undefined

  constructor(database: Database) {
    this.flusher = new Flusher({
      tracker: this.tracker,
      apply: async (batch) => {
        if (batch.flushSeq >= this.heldFrom) throw new Error(`flush ${batch.flushSeq} was not held back`)
        if (this.fate === 'cut') throw new Error('cut')
        const replica = { replicaId: this.id, name: 'test', version: '0.0.0' }
        const outcome = await database.run((db) => applyFlush(db, replica, batch))
        if (this.fate === 'lost') throw new Error('lost')
        return outcome
      },
    })
  }

  /** The model's part of a cut. */
  cut(until: number): void {
    this.wanted = until
    this.#seal()
  }

  #seal(): void {
    if (this.wanted === undefined || this.sealed.length === SEALED_PARTS) return
    this.sealed.push({ ...this.pending, until: this.wanted })
    this.pending = emptyPart()
    this.wanted = undefined
  }

  /** The model's part of a run: what was attempted before goes first, then what is sealed, then what came since. */
  flushed(fate: Fate, model: Model, { pending = true } = {}): void {
    for (;;) {
      this.frozen ??= this.sealed.shift()
      if (!this.frozen && pending && !isEmpty(this.pending)) {
        this.frozen = this.pending
        this.pending = emptyPart()
      }
      this.#seal()
      const { frozen } = this
      if (!frozen) return
      if (fate !== 'cut' && !frozen.isApplied) {
        frozen.isApplied = true
        if (!isEmpty(frozen)) this.row = union(this.row, frozen.ids)
        store(model, frozen.counts, frozen.logs)
        this.reported = frozen.until ?? this.reported
      }
      if (fate !== 'answered') {
        this.wanted = undefined
        return
      }
      this.frozen = undefined
    }
  }

  /** Frozen, sealed and pending, each with the number of its flush. */
  get parts(): { part: Part; seq: number }[] {
    const parts = [this.frozen, ...this.sealed, this.pending].filter((part) => part !== undefined)
    const last = this.tracker.pendingSeq
    return parts.map((part, index) => ({ part, seq: last - (parts.length - 1 - index) }))
  }

  /** How many requests are in memory alone. */
  get held(): number {
    return this.parts.reduce(
      (sum, { part }) => sum + (part.isApplied ? 0 : requests(part.counts, part.logs)),
      0,
    )
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

/** Makes a step of a sequence, after which the database is compared with the model. */
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
    replica.pending.ids.workspaces.add(workspace)
    replica.pending.ids.users.add(user)
    replica.pending.counts.allowed += counts.allowed
    replica.pending.counts.denied += counts.denied
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
      numbers: runsOf(batch.numbers),
    })
    if (batch.allowed + batch.denied > 0) {
      replica.pending.ids.workspaces.add('w')
      replica.pending.ids.users.add(`u${session}`)
    }
    replica.pending.logs.push(...logs)
    model.tracked += batch.allowed + batch.denied
  })

const flush = (index: number, fate: Fate) =>
  step(`flush(${index}, ${fate})`, async (model, real) => {
    const replica = at(real, index)
    replica.fate = fate
    await replica.flusher.flush().catch(() => {}) // as fate has it
    replica.flushed(fate, model)
  })

/** Moments that the replicas report are in the future, so that sessions count as silent. */
let lastUntil = Date.now() + 3_600_000

const cut = (index: number, fate: Fate) =>
  step(`cut(${index}, ${fate})`, async (model, real) => {
    const replica = at(real, index)
    const until = ++lastUntil
    replica.fate = fate
    await replica.flusher.report(until).catch(() => {}) // as fate has it
    replica.cut(until)
    replica.flushed(fate, model, { pending: false })
  })

/** All replicas cut, go on tracking, and would flush that: none of it is in the snapshot that follows. */
const period = (workspace: string) =>
  step(`period(${workspace})`, async (model, real) => {
    const until = ++lastUntil
    for (const replica of real.replicas) {
      replica.fate = 'answered'
      await replica.flusher.report(until, { holdMs: 60_000 })
      replica.cut(until)
      replica.flushed('answered', model, { pending: false })
      replica.heldFrom = replica.tracker.pendingSeq
    }
    for (const index of real.replicas.keys())
      await track(index, workspace, workspace, { allowed: 1, denied: 0 }).run(model, real)
    const flushes = real.replicas.map(({ flusher }) => flusher.flush())
    await snapshot(false).run(model, real)
    for (const replica of real.replicas) {
      replica.heldFrom = Number.POSITIVE_INFINITY
      replica.flusher.release(until)
    }
    await Promise.all(flushes)
    for (const replica of real.replicas) replica.flushed('answered', model)
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

/** All replicas flush while a snapshot is taken; the database decides the order. */
const together = () =>
  step('together()', async (model, real) => {
    model.left = []
    const parts = real.replicas.map((replica) => replica.parts)
    for (const replica of real.replicas) replica.fate = 'answered'
    await Promise.all([
      real.database.run((db) => takeSnapshot(db, { trigger: 'manual', reportedBy: randomUUID() })),
      ...real.replicas.map(({ flusher }) => flusher.flush()),
    ])
    const rows = await real.sql<{ replica_id: string; first: number }[]>`
      select replica_id, first_flush_seq::int as first from boundary_usage_stats`
    for (const [index, replica] of real.replicas.entries()) {
      replica.flushed('answered', model)
      const row = rows.find(({ replica_id }) => replica_id === replica.id)
      if (!row) replica.row = undefined
      // The row was made by one of these flushes, and has what those after it carried; or it was there before.
      const since = parts[index]?.filter(({ seq }) => row && seq >= row.first) ?? []
      if (row && since[0]?.seq === row.first) replica.row = since.map(({ part }) => part.ids).reduce(union)
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

/** Compares the database with the model: this must hold after every step. */
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

  const reports = await real.sql<{ replica_id: string; until: number }[]>`
    select replica_id, (extract(epoch from reported_until) * 1000)::float8 as until from boundary_usage_replicas
    where reported_until is not null`
  for (const { id, reported } of real.replicas) {
    const until = reports.find(({ replica_id }) => replica_id === id)?.until
    if (until !== reported) throw new Error(`reported ${until}, expected ${reported}`)
  }

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
    const cuts = fc.tuple(index, fate).map((args) => cut(...args))
    const periods = small.map((w) => period(`w${w}`))
    const steps = fc.commands(
      [
        tracks,
        sessions,
        sessions,
        flushes,
        flushes,
        cuts,
        periods,
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
