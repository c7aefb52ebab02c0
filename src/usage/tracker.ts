// Counts what this replica was told, in memory, and hands it out in batches that can be flushed exactly once.

/** What one flush carries. Its content never changes, so that it can be tried again under the same number. */
export interface FlushBatch {
  /** 1, 2, 3 … per replica. */
  readonly flushSeq: number
  /** Distinct ids seen since the batch before: the counts if this flush opens a new period. */
  readonly workspaces: ReadonlySet<string>
  readonly users: ReadonlySet<string>
  /** Distinct ids seen in the whole period: the counts if it does not. */
  readonly periodWorkspaces: number
  readonly periodUsers: number
  readonly allowedRequests: number
  readonly deniedRequests: number
  /** Clock reading at the first log in it, in milliseconds. */
  readonly since: number
}

/**
 * The tracker of one replica.
 *
 *   track() ──► pending ──nextBatch()──► frozen ──settle()──► (gone)
 *       └─────► period                                └─ new period: period = frozen + pending
 *
 * Invariants: every log tracked is in exactly one of pending, frozen or a settled batch. At most one batch is
 * frozen. `period` holds every id of the period in progress, as far as this replica knows which that is: until
 * a flush has told it of a snapshot, the ids of the period before are still in it, and so are not trusted for
 * a flush that opens a period; that one's own sets are.
 */
export class Tracker {
  #period = new IdSets()
  #pending = new Pending()
  #frozen: FlushBatch | undefined
  #lastFlushSeq = 0
  readonly #now: () => number

  /** `now` is a monotonic clock in milliseconds. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now
  }

  /** Counts one batch of boundary logs. Ids must come in their canonical form. */
  track(workspaceId: string, ownerId: string, allowed: number, denied: number): void {
    this.#period.add(workspaceId, ownerId)
    this.#pending.ids.add(workspaceId, ownerId)
    this.#pending.allowed += allowed
    this.#pending.denied += denied
    this.#pending.since ??= this.#now()
  }

  /** The batch that is still unsettled, or else what came since it was frozen; undefined if nothing came. */
  nextBatch(): FlushBatch | undefined {
    if (this.#frozen) return this.#frozen
    const { ids, allowed, denied, since } = this.#pending
    if (since === undefined) return undefined
    this.#frozen = {
      flushSeq: ++this.#lastFlushSeq,
      workspaces: ids.workspaces,
      users: ids.users,
      periodWorkspaces: this.#period.workspaces.size,
      periodUsers: this.#period.users.size,
      allowedRequests: allowed,
      deniedRequests: denied,
      since,
    }
    this.#pending = new Pending()
    return this.#frozen
  }

  /** Forgets the batch, which the database has. `newPeriod`: it was the first of a period there. */
  settle(batch: FlushBatch, newPeriod: boolean): void {
    if (batch !== this.#frozen) throw new Error(`flush ${batch.flushSeq} is not the unsettled one`)
    this.#frozen = undefined
    if (newPeriod) this.#period = new IdSets(batch, this.#pending.ids)
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

  /** Distinct ids held for the period in progress. */
  get tracked(): { workspaces: number; users: number } {
    return { workspaces: this.#period.workspaces.size, users: this.#period.users.size }
  }
}

class IdSets {
  readonly workspaces = new Set<string>()
  readonly users = new Set<string>()

  constructor(...sources: { workspaces: ReadonlySet<string>; users: ReadonlySet<string> }[]) {
    for (const { workspaces, users } of sources) {
      for (const id of workspaces) this.workspaces.add(id)
      for (const id of users) this.users.add(id)
    }
  }

  add(workspaceId: string, ownerId: string): void {
    this.workspaces.add(workspaceId)
    this.users.add(ownerId)
  }
}

class Pending {
  readonly ids = new IdSets()
  allowed = 0
  denied = 0
  since: number | undefined
}
