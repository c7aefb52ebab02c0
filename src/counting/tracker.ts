// Counts what this replica was told, in memory, and hands it out in batches that can be flushed exactly once.

import { DistinctIds } from './distinct-ids.js'
import type { SketchHash } from './sketch.js'

/** What one flush carries. Its content never changes, so that it can be tried again under the same number. */
export interface FlushBatch {
  /** 1, 2, 3 … per replica. */
  readonly flushSeq: number
  /** The ids seen since the batch before: what counts if this flush opens a new period. */
  readonly workspaces: DistinctIds
  readonly users: DistinctIds
  /** False if all of them have been flushed in this period before, as far as this replica knows. */
  readonly hasNewIds: boolean
  /** Distinct ids seen in the whole period: the counts if it does not. */
  readonly periodWorkspaces: number
  readonly periodUsers: number
  readonly allowedRequests: number
  readonly deniedRequests: number
  /** Clock reading at the first log in it, in milliseconds. */
  readonly since: number
}

/** How many ids of a kind wait to be looked up. */
const MAX_RECENT = 128

/**
 * The tracker of one replica.
 *
 *   track() ──► pending ──nextBatch()──► frozen ──settle()──► (gone)
 *       └─────► period                                └─ new period: period = frozen + pending
 *
 * On the way to both, ids wait in `recent` to be looked up many at a time: each on its own would find the sets no
 * longer in the processor's caches.
 *
 * Invariants: every log tracked is in exactly one of pending, frozen or a settled batch. At most one batch is
 * frozen. `period` and `recent` hold every id of the period in progress, as far as this replica knows which that is:
 * until a flush has told it of a snapshot, the ids of the period before are still there, and so are not trusted for
 * a flush that opens a period; that one's own sets are.
 */
export class Tracker {
  #period: Ids
  #pending: Pending
  readonly #recent: Record<Kind, string[]> = { workspaces: [], users: [] }
  #frozen: FlushBatch | undefined
  #lastFlushSeq = 0
  #hash: SketchHash | undefined
  readonly #limit: number
  readonly #now: () => number

  /** Counts up to `exactLimit` ids of a kind exactly. `now` is a monotonic clock in milliseconds. */
  constructor(exactLimit: number, now: () => number = () => performance.now()) {
    this.#limit = exactLimit
    this.#now = now
    this.#period = this.#noIds()
    this.#pending = this.#nothing()
  }

  /** Gives the hash of the deployment, which its database knows; needed before the first flush. */
  useHash(hash: SketchHash): void {
    this.#hash = hash
    for (const kind of KINDS) {
      this.#period[kind].resolve(hash)
      // Hashed once: what is pending or frozen is of the period, too.
      const positionOf = (id: string) => this.#period[kind].position(id) ?? hash(id)
      this.#pending.ids[kind].resolve(positionOf)
      this.#frozen?.[kind].resolve(positionOf)
    }
  }

  /** Whether no more can be tracked until the hash is known: ids beyond the limit can only be sketched. */
  get isFull(): boolean {
    return this.#hash === undefined && KINDS.some((kind) => this.#period[kind].isAtLimit)
  }

  /** Counts one batch of boundary logs. Ids must come in their canonical form. Not to be called while full. */
  track(workspaceId: string, ownerId: string, allowed: number, denied: number): void {
    this.#recent.users.push(ownerId)
    // Without the hash, whether it is full has to be known after each.
    if (this.#recent.workspaces.push(workspaceId) >= MAX_RECENT || !this.#hash) this.#addRecent()
    this.#pending.allowed += allowed
    this.#pending.denied += denied
    this.#pending.since ??= this.#now()
  }

  #addRecent(): void {
    for (const kind of KINDS) {
      for (const id of this.#recent[kind]) this.#add(kind, id)
      this.#recent[kind] = []
    }
  }

  #add(kind: Kind, id: string): void {
    if (this.#pending.ids[kind].has(id)) return // and so in the period's, too
    const position = this.#period[kind].position(id) ?? this.#hash?.(id)
    if (this.#period[kind].add(id, position)) this.#pending.hasNewIds = true
    this.#pending.ids[kind].add(id, position)
  }

  /** The batch that is still unsettled, or else what came since it was frozen; undefined if nothing came. */
  nextBatch(): FlushBatch | undefined {
    if (this.#frozen) return this.#frozen
    this.#addRecent()
    const { ids, hasNewIds, allowed, denied, since } = this.#pending
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
      since,
    }
    this.#pending = this.#nothing()
    return this.#frozen
  }

  /** Forgets the batch, which the database has. `newPeriod`: it was the first of a period there. */
  settle(batch: FlushBatch, newPeriod: boolean): void {
    if (batch !== this.#frozen) throw new Error(`flush ${batch.flushSeq} is not the unsettled one`)
    this.#frozen = undefined
    if (!newPeriod) return
    this.#period = this.#noIds(batch, this.#pending.ids)
    this.#pending.hasNewIds = this.#pending.since !== undefined
  }

  /** The batch that was handed out and not settled, if any. */
  get unsettled(): FlushBatch | undefined {
    return this.#frozen
  }

  /** The number of the batch that holds what is tracked now, once it is frozen. */
  get pendingSeq(): number {
    return this.#lastFlushSeq + 1
  }

  /** Requests that are not in the database yet, as far as this replica knows. */
  get unflushed(): { allowed: number; denied: number } {
    return {
      allowed: this.#pending.allowed + (this.#frozen?.allowedRequests ?? 0),
      denied: this.#pending.denied + (this.#frozen?.deniedRequests ?? 0),
    }
  }

  /** Age of the oldest log that is not in the database yet, in milliseconds; 0 if there is none. */
  get unflushedAge(): number {
    const since = this.#frozen?.since ?? this.#pending.since
    return since === undefined ? 0 : this.#now() - since
  }

  /** Distinct ids of the period in progress. */
  get tracked(): { workspaces: number; users: number } {
    this.#addRecent()
    return { workspaces: this.#period.workspaces.count, users: this.#period.users.count }
  }

  #noIds(...sources: Ids[]): Ids {
    return {
      workspaces: new DistinctIds(this.#limit, ...sources.map(({ workspaces }) => workspaces)),
      users: new DistinctIds(this.#limit, ...sources.map(({ users }) => users)),
    }
  }

  #nothing(): Pending {
    return { ids: this.#noIds(), hasNewIds: false, allowed: 0, denied: 0, since: undefined }
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
  since: number | undefined
}
