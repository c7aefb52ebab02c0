// The tracker: counts in memory what this replica accepted, and hands it out as flushes that apply exactly once.

import type { Runs } from '../ingest/runs.js'
import { DistinctIds } from './distinct-ids.js'
import { type SessionHash, Sessions } from './sessions.js'
import type { SketchHash } from './sketch.js'
import { StoredRuns } from './stored-runs.js'

/** What one flush carries. Its content never changes, so it can be attempted again under the same number. */
export interface Flush {
  /** 1, 2, 3 … per replica. */
  readonly flushSeq: number
  /** The ids seen since the previous flush: the period's counts if this flush opens a new period. */
  readonly workspaces: DistinctIds
  readonly users: DistinctIds
  /** False if, as far as this replica knows, all of them were flushed in this period before. */
  readonly hasNewIds: boolean
  /** Distinct ids seen in the whole period: the period's counts if this flush does not open a new one. */
  readonly periodWorkspaces: number
  readonly periodUsers: number
  /** Logs without a session. */
  readonly allowedRequests: number
  readonly deniedRequests: number
  /** The numbers of sessions. The database knows which of them it has counted before. */
  readonly sessions: Sessions
  /** Throws until the deployment's key is known. */
  readonly keyOf: SessionHash
  /** Reading of the monotonic clock at its first log, in milliseconds. Undefined if the flush is empty. */
  readonly since: number | undefined
  /**
   * Set if it was sealed: with this flush, the database has all that was tracked before this moment, in milliseconds
   * since 1970 by its own clock.
   */
  readonly reportedUntil: number | undefined
}

/** As many cuts as can come while one snapshot is taken: one at its boundary, and one per preview or manual snapshot. */
const SEALED_PARTS = 8
/** Several sealed parts and what is pending hold no more runs of sessions than this. */
const SEALED_RUNS = 20_000

/**
 * The tracker of one replica.
 *
 *   track() ──► pending ─────────nextFlush()────────► frozen ──settle()──► (discarded)
 *       │          └──seal()──► sealed ──nextFlush()──►┘         └─ new period: period = frozen + sealed + pending
 *       └─────► period
 *
 * seal() ends a part where a period ends, while the flushes before it may still be frozen or sealed. The sealed part has
 * its number from that moment on, so that what is tracked later waits for another flush than what was tracked before.
 *
 * Invariants: every tracked log is in exactly one of pending, sealed, frozen or a settled flush. At most one flush is
 * frozen; numbers are settled in order. `period` holds every id of the current period. Until a flush reports that a
 * snapshot has begun a new period, it also holds the ids of the previous one; that is why a flush that opens a period
 * counts its own ids, not the period's, and why the period's counts of sealed parts are determined anew when a flush
 * before them opens a period.
 */
export class Tracker {
  #period: Ids
  #pending: Pending
  /** In the order of their numbers. */
  #sealed: Flush[] = []
  #frozen: Flush | undefined
  readonly #storedRuns = new StoredRuns()
  #lastFlushSeq = 0
  #hash: SketchHash | undefined
  #sessionHash: SessionHash | undefined
  readonly #limit: number
  readonly #now: () => number

  /** Counts up to `exactLimit` ids of each kind exactly. `now` is a monotonic clock in milliseconds. */
  constructor(exactLimit: number, now: () => number = () => performance.now()) {
    this.#limit = exactLimit
    this.#now = now
    this.#period = this.#noIds()
    this.#pending = this.#nothing()
  }

  /** Sets the deployment's hashes, whose key is read from the database; required before the first flush. */
  useHash(hash: SketchHash, sessionHash: SessionHash): void {
    this.#hash = hash
    this.#sessionHash = sessionHash
    for (const kind of KINDS) {
      this.#period[kind].resolve(hash)
      // The period holds all ids that are pending or frozen, so each id is hashed once.
      const positionOf = (id: string) => this.#period[kind].position(id) ?? hash(id)
      this.#pending.ids[kind].resolve(positionOf)
      for (const flush of this.#unsettledParts) flush[kind].resolve(positionOf)
    }
  }

  /** Whether nothing more can be tracked until the hash is known: ids beyond the limit can only be sketched. */
  get isFull(): boolean {
    return this.#hash === undefined && KINDS.some((kind) => this.#period[kind].isAtLimit)
  }

  /** Whether a flush should not wait for its interval. */
  get isFlushDue(): boolean {
    return this.#pending.sessions.isFlushDue
  }

  /** Whether a flush should not wait for a snapshot either. */
  get isFlushUrgent(): boolean {
    return this.#pending.sessions.isFlushUrgent
  }

  /** Whether no batch of a session can be tracked until the pending flush is frozen. */
  get isFullOfSessions(): boolean {
    return this.#pending.sessions.isFull
  }

  /** What the sessions since the last flush was frozen cost the database, in runs. */
  get sessionCost(): number {
    return this.#pending.sessions.cost
  }

  /**
   * Counts one batch. Ids are in canonical form. Must not be called while `isFull`, nor with a session while
   * `isFullOfSessions`. A batch of skipped logs tracks no workspace and no user. `admit` is asked about an id that would
   * change the period's distinct count; an id that it refuses does not join it.
   */
  track(
    workspaceId: string,
    ownerId: string,
    allowed: number,
    denied: number,
    session?: { readonly id: string; readonly numbers: Runs },
    admit: (kind: Kind) => boolean = () => true,
  ): void {
    const known = session && this.#pending.sessions.find(workspaceId, session.id)
    // The ids of a session's batch before are pending too.
    if (allowed + denied > 0 && (known === undefined || known.ownerId !== ownerId)) {
      const isWorkspaceCounted = this.#add('workspaces', workspaceId, admit)
      const isOwnerCounted = this.#add('users', ownerId, admit)
      if (known && isWorkspaceCounted && isOwnerCounted) known.ownerId = ownerId
    }
    if (known && session) this.#pending.sessions.add(known, session.numbers)
    else {
      this.#pending.allowed += allowed
      this.#pending.denied += denied
    }
    this.#pending.since ??= this.#now()
  }

  /** Returns false if the id was refused. */
  #add(kind: Kind, id: string, admit: (kind: Kind) => boolean): boolean {
    if (this.#pending.ids[kind].has(id)) return true // the period holds every pending id
    const position = this.#period[kind].position(id) ?? this.#hash?.(id)
    if (this.#period[kind].isNew(id, position) && !admit(kind)) return false
    if (this.#period[kind].add(id, position)) this.#pending.hasNewIds = true
    this.#pending.ids[kind].add(id, position)
    return true
  }

  /**
   * Ends a part here: all that was tracked before `until`, and has no number yet, gets one, even if that is nothing.
   * Returns undefined if too much is sealed that is not frozen yet.
   */
  seal(until: number): Flush | undefined {
    if (this.#sealed.length > 0 && (this.#sealed.length >= SEALED_PARTS || this.#heldRuns > SEALED_RUNS))
      return undefined
    const part = this.#numbered(until)
    this.#sealed.push(part)
    return part
  }

  get #heldRuns(): number {
    return this.#sealed.reduce((sum, { sessions }) => sum + sessions.runs, this.#pending.sessions.runs)
  }

  /**
   * The unsettled flush if there is one; otherwise the first sealed part; otherwise freezes what is pending, unless it
   * must stay; undefined if nothing is left, or only what has a higher number than `upTo`.
   */
  nextFlush({ pending = true, upTo = Number.POSITIVE_INFINITY } = {}): Flush | undefined {
    if (this.#frozen) return this.#frozen
    const [sealed] = this.#sealed
    if (sealed) {
      if (sealed.flushSeq > upTo) return undefined
      this.#frozen = this.#sealed.shift()
    } else if (pending && this.#pending.since !== undefined && this.pendingSeq <= upTo)
      this.#frozen = this.#numbered()
    return this.#frozen
  }

  /** Whether any part is sealed and not frozen yet. */
  get hasSealed(): boolean {
    return this.#sealed.length > 0
  }

  #numbered(reportedUntil?: number): Flush {
    const { ids, hasNewIds, allowed, denied, sessions, since } = this.#pending
    this.#pending = this.#nothing()
    return {
      flushSeq: ++this.#lastFlushSeq,
      workspaces: ids.workspaces,
      users: ids.users,
      hasNewIds,
      periodWorkspaces: this.#period.workspaces.count,
      periodUsers: this.#period.users.count,
      allowedRequests: allowed,
      deniedRequests: denied,
      sessions,
      keyOf: this.#keyOf,
      since,
      reportedUntil,
    }
  }

  readonly #keyOf: SessionHash = (workspaceId, sessionId) => {
    if (!this.#sessionHash) throw new Error('a session has no key before the deployment has one')
    return this.#sessionHash(workspaceId, sessionId)
  }

  /**
   * Discards the flush, which the database has applied. `newPeriod`: it opened a period there. `storedRuns`: how many runs
   * the ledger has of its sessions, by their position, where they are many.
   */
  settle(flush: Flush, newPeriod: boolean, storedRuns?: Readonly<Record<number, number>>): void {
    if (flush !== this.#frozen) throw new Error(`flush ${flush.flushSeq} is not the unsettled one`)
    this.#frozen = undefined
    if (storedRuns) this.#storedRuns.learn(flush.sessions, storedRuns)
    if (!newPeriod) return
    let ids = this.#noIds(flush)
    this.#sealed = this.#sealed.map((part) => {
      ids = this.#noIds(ids, part)
      const { workspaces, users } = ids
      return { ...part, hasNewIds: true, periodWorkspaces: workspaces.count, periodUsers: users.count }
    })
    this.#period = this.#noIds(ids, this.#pending.ids)
    this.#pending.hasNewIds = this.#pending.since !== undefined
  }

  /** The number of the flush that will carry what is tracked now. */
  get pendingSeq(): number {
    return this.#lastFlushSeq + 1
  }

  /** The number of the flush that carries, or will carry, the last log tracked. */
  get trackedSeq(): number {
    return this.#pending.since === undefined ? this.#lastFlushSeq : this.pendingSeq
  }

  /** The number of the last flush that was settled. */
  get settledSeq(): number {
    return this.#lastFlushSeq - this.#unsettledParts.length
  }

  /** The flush that was handed out and is not settled yet. */
  get unsettled(): Flush | undefined {
    return this.#frozen
  }

  get #unsettledParts(): Flush[] {
    return this.#frozen ? [this.#frozen, ...this.#sealed] : this.#sealed
  }

  /**
   * Requests that, as far as this replica knows, are not in the database yet, without those known to be duplicates. The
   * database may find more duplicates among them.
   */
  get unflushed(): { allowed: number; denied: number } {
    const { allowed, denied, sessions } = this.#pending
    const sum = { allowed: allowed + sessions.allowed, denied: denied + sessions.denied }
    for (const flush of this.#unsettledParts) {
      sum.allowed += flush.allowedRequests + flush.sessions.allowed
      sum.denied += flush.deniedRequests + flush.sessions.denied
    }
    return sum
  }

  /** Repeated logs that are not in the database's count of duplicates yet. */
  get unflushedDuplicates(): number {
    return this.#unsettledParts.reduce(
      (sum, { sessions }) => sum + sessions.repeated,
      this.#pending.sessions.repeated,
    )
  }

  /** Age in milliseconds of the oldest log that is not in the database yet; 0 if there is none. */
  get unflushedAge(): number {
    const since =
      this.#unsettledParts.find((flush) => flush.since !== undefined)?.since ?? this.#pending.since
    return since === undefined ? 0 : this.#now() - since
  }

  /** Distinct ids of the current period. */
  get tracked(): { workspaces: number; users: number } {
    return { workspaces: this.#period.workspaces.count, users: this.#period.users.count }
  }

  #noIds(...sources: Ids[]): Ids {
    return {
      workspaces: new DistinctIds(this.#limit, ...sources.map(({ workspaces }) => workspaces)),
      users: new DistinctIds(this.#limit, ...sources.map(({ users }) => users)),
    }
  }

  #nothing(): Pending {
    return {
      ids: this.#noIds(),
      hasNewIds: false,
      allowed: 0,
      denied: 0,
      sessions: new Sessions(this.#storedRuns),
      since: undefined,
    }
  }
}

const KINDS = ['workspaces', 'users'] as const
type Kind = (typeof KINDS)[number]
type Ids = Readonly<Record<Kind, DistinctIds>>

interface Pending {
  readonly ids: Ids
  hasNewIds: boolean
  allowed: number
  denied: number
  readonly sessions: Sessions
  since: number | undefined
}
