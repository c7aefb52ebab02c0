// The tracker: counts in memory what this replica accepted, and hands it out as flushes that apply exactly once.

import { DistinctIds } from './distinct-ids.js'
import { type Numbers, type SessionHash, Sessions } from './sessions.js'
import type { SketchHash } from './sketch.js'

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
  /** Reading of the monotonic clock at its first log, in milliseconds. */
  readonly since: number
}

/**
 * The tracker of one replica.
 *
 *   track() ──► pending ──nextFlush()──► frozen ──settle()──► (discarded)
 *       └─────► period                                └─ new period: period = frozen + pending
 *
 * Invariants: every tracked log is in exactly one of pending, frozen or a settled flush. At most one flush is frozen.
 * `period` holds every id of the current period. Until a flush reports that a snapshot has begun a new period, it also
 * holds the ids of the previous one; that is why a flush that opens a period counts its own ids, not the period's.
 */
export class Tracker {
  #period: Ids
  #pending: Pending
  #frozen: Flush | undefined
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
      this.#frozen?.[kind].resolve(positionOf)
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

  /** Whether no batch of a session can be tracked until the pending flush is frozen. */
  get isFullOfSessions(): boolean {
    return this.#pending.sessions.isFull
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
    session?: { readonly id: string; readonly numbers: Numbers },
    admit: (kind: Kind) => boolean = () => true,
  ): void {
    if (allowed + denied > 0) {
      this.#add('workspaces', workspaceId, admit)
      this.#add('users', ownerId, admit)
    }
    if (session) this.#pending.sessions.add(workspaceId, session.id, session.numbers)
    else {
      this.#pending.allowed += allowed
      this.#pending.denied += denied
    }
    this.#pending.since ??= this.#now()
  }

  #add(kind: Kind, id: string, admit: (kind: Kind) => boolean): void {
    if (this.#pending.ids[kind].has(id)) return // the period holds every pending id
    const position = this.#period[kind].position(id) ?? this.#hash?.(id)
    if (this.#period[kind].isNew(id, position) && !admit(kind)) return
    if (this.#period[kind].add(id, position)) this.#pending.hasNewIds = true
    this.#pending.ids[kind].add(id, position)
  }

  /** The unsettled flush if there is one; otherwise freezes what is pending; undefined if nothing is. */
  nextFlush(): Flush | undefined {
    if (this.#frozen) return this.#frozen
    const { ids, hasNewIds, allowed, denied, sessions, since } = this.#pending
    if (since === undefined) return undefined
    this.#frozen = {
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
    }
    this.#pending = this.#nothing()
    return this.#frozen
  }

  readonly #keyOf: SessionHash = (workspaceId, sessionId) => {
    if (!this.#sessionHash) throw new Error('a session has no key before the deployment has one')
    return this.#sessionHash(workspaceId, sessionId)
  }

  /** Discards the flush, which the database has applied. `newPeriod`: it opened a period there. */
  settle(flush: Flush, newPeriod: boolean): void {
    if (flush !== this.#frozen) throw new Error(`flush ${flush.flushSeq} is not the unsettled one`)
    this.#frozen = undefined
    if (!newPeriod) return
    this.#period = this.#noIds(flush, this.#pending.ids)
    this.#pending.hasNewIds = this.#pending.since !== undefined
  }

  /** The flush that was handed out and is not settled yet. */
  get unsettled(): Flush | undefined {
    return this.#frozen
  }

  /** The number of the flush that will carry what is tracked now. */
  get pendingSeq(): number {
    return this.#lastFlushSeq + 1
  }

  /**
   * Requests that, as far as this replica knows, are not in the database yet, without those known to be duplicates. The
   * database may find more duplicates among them.
   */
  get unflushed(): { allowed: number; denied: number } {
    const frozen = this.#frozen
    const { allowed, denied, sessions } = this.#pending
    return {
      allowed: allowed + sessions.allowed + (frozen ? frozen.allowedRequests + frozen.sessions.allowed : 0),
      denied: denied + sessions.denied + (frozen ? frozen.deniedRequests + frozen.sessions.denied : 0),
    }
  }

  /** Repeated logs that are not in the database's count of duplicates yet. */
  get unflushedDuplicates(): number {
    return this.#pending.sessions.repeated + (this.#frozen?.sessions.repeated ?? 0)
  }

  /** Age in milliseconds of the oldest log that is not in the database yet; 0 if there is none. */
  get unflushedAge(): number {
    const since = this.#frozen?.since ?? this.#pending.since
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
      sessions: new Sessions(),
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
