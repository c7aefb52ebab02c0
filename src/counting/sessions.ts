// The numbers that arrived from sessions since the last flush, as runs: a number that arrives again takes no memory.

import { ALLOWED, DENIED, type Decision, type Runs, SKIPPED } from '../ingest/runs.js'
import { hmac } from './hmac.js'
import { StoredRuns } from './stored-runs.js'

/**
 * The first 16 bytes of an HMAC-SHA-256 under the deployment's key, as a UUID. The workspace is part of the key, so that
 * nobody can add to the sessions of another workspace. Ids are in canonical form.
 */
export type SessionHash = (workspaceId: string, sessionId: string) => string

export function sessionHash(key: Uint8Array): SessionHash {
  const digest = hmac(key, 'hex')
  return (workspaceId, sessionId) => {
    const hex = digest(`${workspaceId} ${sessionId}`)
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`
  }
}

/**
 * At 250 runs of one session a flush is due: from there on merging a batch takes longer than reading it, and the
 * ledger keeps 5,000 holes per session, to which a flush should add few.
 */
const SOFT_SESSION_RUNS = 250
/** At 20,000 runs a flush is due: the statement takes the database at most 0.4 s, even if every log is a duplicate. */
const SOFT_RUNS = 20_000
/**
 * Beyond 100,000 runs batches of sessions are refused. If every log is a duplicate, a statement of 100,000 sessions of
 * one run takes the database 2 s, and one of 1,000 sessions of 100 runs 0.3 s: less than half of statement_timeout.
 */
const HARD_RUNS = 100_000
/** The statement takes 5 µs for each run that the ledger has of its sessions: so many take as long as a session of one run. */
const STORED_RUNS_PER_RUN = 4
/** One sender may fill at most this part, so that none keeps the sessions of all others out. */
export const SENDER_RUNS = 0.75 * HARD_RUNS

export class Sessions {
  readonly #sessions = new Map<string, Session>()
  /** Sessions whose id was another workspace's before, by both ids. */
  readonly #namesakes = new Map<string, Session>()
  readonly #stored: StoredRuns
  #runs = 0
  #storedRuns = 0
  #mostRuns = 0
  #allowed = 0
  #denied = 0
  #repeated = 0

  constructor(stored = new StoredRuns()) {
    this.#stored = stored
  }

  /** The session of that id, which is added if it is new. */
  find(workspaceId: string, sessionId: string): Session {
    const first = this.#sessions.get(sessionId)
    if (first === undefined) return this.#insert(this.#sessions, sessionId, workspaceId, sessionId)
    if (first.workspaceId === workspaceId) return first
    const id = workspaceId + sessionId
    return this.#namesakes.get(id) ?? this.#insert(this.#namesakes, id, workspaceId, sessionId)
  }

  #insert(sessions: Map<string, Session>, key: string, workspaceId: string, sessionId: string): Session {
    const session = new Session(workspaceId, sessionId)
    sessions.set(key, session)
    this.#storedRuns += this.#stored.of(workspaceId, sessionId)
    return session
  }

  /** Adds the numbers of a batch; those that arrived before keep their first decision. */
  add(session: Session, numbers: Runs): void {
    const { runs, allowed, denied } = session
    this.#repeated += session.add(numbers)
    this.#runs += session.runs - runs
    this.#allowed += session.allowed - allowed
    this.#denied += session.denied - denied
    if (session.runs > this.#mostRuns) this.#mostRuns = session.runs
  }

  *[Symbol.iterator](): Iterator<Session> {
    yield* this.#sessions.values()
    yield* this.#namesakes.values()
  }

  get size(): number {
    return this.#sessions.size + this.#namesakes.size
  }

  get runs(): number {
    return this.#runs
  }

  /** What their flush costs the database, in runs: theirs, and those that the ledger is known to have of the same sessions. */
  get cost(): number {
    return this.#runs + this.#storedRuns / STORED_RUNS_PER_RUN
  }

  /** Allowed logs, each number once. */
  get allowed(): number {
    return this.#allowed
  }

  /** Denied logs, each number once. */
  get denied(): number {
    return this.#denied
  }

  /** Allowed and denied logs whose number had arrived before. */
  get repeated(): number {
    return this.#repeated
  }

  /** Whether a flush is due, so that neither merging batches nor the flush takes long. */
  get isFlushDue(): boolean {
    return this.#mostRuns >= SOFT_SESSION_RUNS || this.isFlushUrgent
  }

  /** Whether a flush is due that nothing may delay: if it waited for long, batches would be refused. */
  get isFlushUrgent(): boolean {
    return this.#runs >= SOFT_RUNS || this.isFull
  }

  /** Whether one flush could not carry more. */
  get isFull(): boolean {
    return this.cost >= HARD_RUNS
  }
}

/** The numbers of one session. */
export class Session {
  #runs: number[] = []
  #allowed = 0
  #denied = 0

  readonly workspaceId: string
  readonly sessionId: string
  /** The owner of its last batch whose ids all joined the distinct counts. */
  ownerId: string | undefined

  constructor(workspaceId: string, sessionId: string) {
    this.workspaceId = workspaceId
    this.sessionId = sessionId
  }

  get runs(): number {
    return this.#runs.length / 3
  }

  get allowed(): number {
    return this.#allowed
  }

  get denied(): number {
    return this.#denied
  }

  /** Adds numbers. Returns how many allowed and denied ones had arrived before. */
  add(numbers: Runs): number {
    const first = numbers[0]
    if (first === undefined) return 0
    if (first < (this.#runs[this.#runs.length - 2] ?? 0))
      return this.#repetition(numbers) ?? this.#merge(numbers)
    for (let i = 0; i < numbers.length; i += 3)
      this.#append(this.#runs, numbers[i] ?? 0, numbers[i + 1] ?? 0, numbers[i + 2] ?? 0)
    return 0
  }

  /** The numbers of each decision, as PostgreSQL writes a multirange. */
  toMultiranges(): Record<Decision, string> {
    const texts = ['', '', '']
    for (let i = 0; i < this.#runs.length; i += 3) {
      const decision = this.#runs[i + 2] ?? SKIPPED
      const text = texts[decision] ?? ''
      texts[decision] = `${text}${text === '' ? '' : ','}[${this.#runs[i]},${this.#runs[i + 1]})`
    }
    const [allowed, denied, skipped] = texts
    return { allowed: `{${allowed}}`, denied: `{${denied}}`, skipped: `{${skipped}}` }
  }

  /** How many allowed and denied numbers there are, if all had arrived before, as with a batch that is sent again. */
  #repetition(arriving: Runs): number | undefined {
    const known = this.#runs
    let repeated = 0
    let k = 0
    for (let i = 0; i < arriving.length; i += 3) {
      const end = arriving[i + 1] ?? 0
      let next = arriving[i] ?? 0
      if (arriving[i + 2] !== SKIPPED) repeated += end - next
      while (next < end) {
        while (k < known.length && (known[k + 1] ?? 0) <= next) k += 3
        if (k >= known.length || (known[k] ?? 0) > next) return undefined
        next = known[k + 1] ?? end
      }
    }
    return repeated
  }

  /** Walks both lists in order: parts of an arriving run that lie in known runs repeat, the others are new. */
  #merge(arriving: Runs): number {
    const known = this.#runs
    const merged: number[] = []
    this.#allowed = 0
    this.#denied = 0
    let repeated = 0
    let k = 0
    for (let i = 0; i < arriving.length; i += 3) {
      const end = arriving[i + 1] ?? 0
      const decision = arriving[i + 2] ?? 0
      let next = arriving[i] ?? 0
      while (next < end) {
        k = this.#keep(merged, k, next)
        const knownFirst = known[k] ?? end
        const isKnown = knownFirst <= next
        const stop = Math.min(end, isKnown ? (known[k + 1] ?? end) : knownFirst)
        if (!isKnown) this.#append(merged, next, stop, decision)
        else if (decision !== SKIPPED) repeated += stop - next
        next = stop
      }
    }
    this.#keep(merged, k, Number.POSITIVE_INFINITY)
    this.#runs = merged
    return repeated
  }

  /** Appends the known runs, from that index on, that end at or before `end`. Returns the index of the next one. */
  #keep(merged: number[], from: number, end: number): number {
    const known = this.#runs
    let k = from
    for (; k < known.length && (known[k + 1] ?? 0) <= end; k += 3)
      this.#append(merged, known[k] ?? 0, known[k + 1] ?? 0, known[k + 2] ?? 0)
    return k
  }

  /** Appends a run that begins at or after the end of the last one, and counts it. */
  #append(runs: number[], first: number, end: number, decision: number): void {
    const last = runs.length - 1
    if (runs[last] === decision && runs[last - 1] === first) runs[last - 1] = end
    else runs.push(first, end, decision)
    if (decision === ALLOWED) this.#allowed += end - first
    else if (decision === DENIED) this.#denied += end - first
  }
}
