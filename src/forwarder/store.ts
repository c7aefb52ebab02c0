// What the service has not acknowledged yet: entries by session, oldest first, within a limit.

import type { Ids } from './credentials.js'
import { Largest } from './largest.js'
import { type Log, Trouble } from './log.js'
import type { Spool, SpoolRecord } from './spool.js'
import type { Totals } from './totals.js'
import type { Log as WireLog } from './wire.js'

export const MAX_BATCH_LOGS = 1_000
/** With the session's id, which takes 38 of them. */
export const MAX_BATCH_BYTES = 512 * 1024 - 38
export const MAX_AGE_MS = 15 * 24 * 60 * 60 * 1000
const PRUNE_INTERVAL_MS = 60_000
/** What a session, an entry and a log take in memory besides their bytes. A boundary's log may have two of them. */
const SESSION_BYTES = 768
const ENTRY_BYTES = 512
const LOG_BYTES = 16
/** With a spool, entries beyond so many bytes are kept on disk only. */
const MAX_CACHED_BYTES = 8 * 2 ** 20

/** The logs of one frame that go into one batch: at most 1,000, with numbers of which none repeats. */
export interface Entry {
  readonly session: Session
  /** When it was read, by the clock. */
  readonly time: number
  /** Of each log; negative once the log was dropped. */
  readonly lengths: number[]
  readonly numbers: number[]
  /** Logs that it still has. */
  logs: number
  /** What counts towards the limit. */
  bytes: number
  /** The logs as they follow each other in a batch; undefined while they are on disk only. */
  payload: Buffer | undefined
  /** Where they are on disk. */
  record: SpoolRecord | undefined
  /** Part of a batch that has been formed. */
  isBatched: boolean
  /** Part of a batch whose answer is awaited. */
  isInFlight: boolean
  /** On disk, and still in memory, too. */
  isCached: boolean
  /** False once it was acknowledged or given up. */
  isHeld: boolean
}

export interface Session {
  readonly ids: Ids
  readonly id: string
  /** All entries, oldest first. */
  readonly entries: Set<Entry>
  /** Those in no batch yet. */
  readonly waiting: Set<Entry>
  waitingLogs: number
  waitingBytes: number
  logs: number
  bytes: number
  place: number
  /** The entry with the highest number; undefined if it is not known. */
  highest: { entry: Entry; number: number } | undefined
}

export interface StoreOptions {
  limit: number
  totals: Totals
  log: Log
  /** Called when there is something new to send. */
  onAdded: () => void
}

export class Store {
  readonly sessions = new Map<string, Session>()
  logs = 0
  bytes = 0
  /** Set before anything is added, or not at all. */
  spool: Spool | undefined
  /** All entries, oldest first. */
  readonly #entries = new Set<Entry>()
  /** Sessions that can lose a log and keep the one with their highest number. */
  readonly #largest = new Largest<Session>()
  readonly #options: StoreOptions
  readonly #overLimit: Trouble
  readonly #tooOld: Trouble
  readonly #pruning: NodeJS.Timeout
  /** Bytes of payloads that are on disk, too. */
  #cached = 0

  constructor(options: StoreOptions) {
    this.#options = options
    const { log } = options
    this.#overLimit = new Trouble(
      log,
      'dropping logs: more than --spool-limit is waiting',
      'dropping no more logs',
    )
    this.#tooOld = new Trouble(
      log,
      'dropping logs that are older than 15 days',
      'no logs are older than 15 days',
    )
    this.#pruning = setInterval(() => this.prune(), PRUNE_INTERVAL_MS)
    this.#pruning.unref()
  }

  close(): void {
    clearInterval(this.#pruning)
  }

  /** Adds the logs of a frame. */
  add(ids: Ids, sessionId: string, logs: WireLog[], time: number): void {
    for (const part of partsOf(logs)) {
      const payload = Buffer.concat(part.map(({ bytes }) => bytes))
      const entry = this.#insert(this.#session(ids, sessionId), part, time)
      entry.payload = payload
      this.spool?.add(entry)
    }
    this.#enforceLimit()
    this.#options.onAdded()
  }

  /** Adds what an earlier forwarder has left on disk. */
  adopt(ids: Ids, sessionId: string, logs: WireLog[], time: number): Entry {
    return this.#insert(this.#session(ids, sessionId), logs, time)
  }

  /** To be called after adopting: logs that were read meanwhile are younger. */
  adopted(): void {
    sortByAge(this.#entries)
    for (const { entries, waiting } of this.sessions.values()) {
      sortByAge(entries)
      sortByAge(waiting)
    }
    this.prune()
    this.#enforceLimit()
    this.#options.onAdded()
  }

  /** Puts entries in a batch: the oldest of a session that fit, up to a repeated number. */
  takeBatch(session: Session): Entry[] {
    const taken: Entry[] = []
    const numbers = new Set<number>()
    let logs = 0
    let bytes = 0
    for (const entry of session.waiting) {
      if (logs + entry.logs > MAX_BATCH_LOGS || bytes + entry.bytes > MAX_BATCH_BYTES) break
      if (entry.numbers.some((number, n) => isLive(entry, n) && numbers.has(number))) break
      for (const number of entry.numbers) numbers.add(number)
      logs += entry.logs
      bytes += entry.bytes
      taken.push(entry)
    }
    for (const entry of taken) {
      entry.isBatched = true
      this.#stopWaiting(entry)
    }
    return taken
  }

  /** Whether a batch of the session need not wait for more logs. */
  isFull(session: Session): boolean {
    return session.waitingLogs >= MAX_BATCH_LOGS || session.waitingBytes >= MAX_BATCH_BYTES
  }

  /** The payloads of entries that are still held, without the logs that were dropped. Reads from disk where need be. */
  async load(entries: Entry[]): Promise<Buffer[]> {
    const onDisk = entries.filter((entry) => entry.isHeld && entry.payload === undefined)
    const read = (await this.spool?.read(onDisk)) ?? new Map<Entry, Buffer>()
    const payloads: Buffer[] = []
    for (const entry of entries) {
      const payload = entry.payload ?? read.get(entry)
      if (!entry.isHeld) continue
      if (payload === undefined) {
        this.#options.totals.spool_records_bad++
        this.release(entry)
      } else payloads.push(...livePayloads(entry, payload))
    }
    return payloads
  }

  /** Forgets an entry: it was acknowledged, or is given up. */
  release(entry: Entry): void {
    if (!entry.isHeld) return
    entry.isHeld = false
    const { session } = entry
    this.#stopWaiting(entry)
    session.entries.delete(entry)
    this.#entries.delete(entry)
    this.#change(session, -entry.logs, -entry.bytes)
    if (session.highest?.entry === entry) session.highest = undefined
    if (session.entries.size === 0) {
      this.sessions.delete(keyOf(session.ids, session.id))
      this.bytes -= SESSION_BYTES
    }
    if (entry.isCached) this.#cached -= entry.payload?.length ?? 0
    entry.payload = undefined
    this.spool?.forget(entry)
    if (this.bytes < this.#options.limit * 0.9) this.#overLimit.worked()
  }

  /** Called when an entry is in its file: from then on its payload need not stay in memory. */
  written(entry: Entry): void {
    if (entry.payload === undefined || entry.isCached) return
    entry.isCached = this.#cached + entry.payload.length <= MAX_CACHED_BYTES
    if (entry.isCached) this.#cached += entry.payload.length
    else entry.payload = undefined
  }

  /** Called when too much waits for the disk: gives the oldest frame up. */
  dropWaitingForDisk(entry: Entry): void {
    this.#options.totals.logs_dropped_waiting_for_disk += entry.logs
    this.release(entry)
  }

  /** Drops what is older than the service's ledger might remember. */
  prune(now = Date.now()): void {
    let count = 0
    for (const session of this.sessions.values())
      for (const entry of session.entries) {
        if (now - entry.time <= MAX_AGE_MS) break
        if (entry.isInFlight) continue
        count += entry.logs
        this.release(entry)
      }
    this.#options.totals.logs_dropped_too_old += count
    if (count > 0) this.#tooOld.failed({ logs: count })
    else this.#tooOld.worked()
  }

  #session(ids: Ids, id: string): Session {
    const key = keyOf(ids, id)
    const known = this.sessions.get(key)
    if (known) return known
    const session: Session = {
      ids,
      id,
      entries: new Set(),
      waiting: new Set(),
      waitingLogs: 0,
      waitingBytes: 0,
      logs: 0,
      bytes: 0,
      place: -1,
      highest: undefined,
    }
    this.sessions.set(key, session)
    this.bytes += SESSION_BYTES
    return session
  }

  #insert(session: Session, logs: WireLog[], time: number): Entry {
    const lengths = logs.map(({ bytes }) => bytes.length)
    const entry: Entry = {
      session,
      time,
      lengths,
      numbers: logs.map(({ number }) => number),
      logs: logs.length,
      bytes: lengths.reduce((sum, length) => sum + length + LOG_BYTES, ENTRY_BYTES),
      payload: undefined,
      record: undefined,
      isBatched: false,
      isInFlight: false,
      isCached: false,
      isHeld: true,
    }
    const isHighestKnown = session.highest !== undefined || session.entries.size === 0
    session.entries.add(entry)
    this.#entries.add(entry)
    session.waiting.add(entry)
    session.waitingLogs += entry.logs
    session.waitingBytes += entry.bytes
    this.#change(session, entry.logs, entry.bytes)
    if (isHighestKnown) raiseHighest(session, entry)
    return entry
  }

  #change(session: Session, logs: number, bytes: number): void {
    session.logs += logs
    session.bytes += bytes
    this.logs += logs
    this.bytes += bytes
    if (session.logs > 1) this.#largest.put(session)
    else this.#largest.remove(session)
  }

  #stopWaiting(entry: Entry): void {
    const { session } = entry
    if (!session.waiting.delete(entry)) return
    session.waitingLogs -= entry.logs
    session.waitingBytes -= entry.bytes
  }

  /**
   * Drops the oldest log of the session that holds most, again and again. A session's highest number stays, so that
   * the service sees what is missing below it; only if nothing else is left, as when somebody invents sessions, goes
   * the oldest entry of all.
   */
  #enforceLimit(): void {
    const { limit, totals } = this.#options
    const before = totals.logs_dropped_over_limit
    /** All that they could lose is in flight: a few, because a few batches are. */
    const spent: Session[] = []
    while (this.bytes > limit) {
      const largest = this.#largest.first
      if (largest === undefined) {
        if (!this.#dropOldestEntry()) break
      } else if (!this.#dropOldestLog(largest)) {
        this.#largest.remove(largest)
        spent.push(largest)
      }
    }
    for (const session of spent) if (session.logs > 1) this.#largest.put(session)
    if (totals.logs_dropped_over_limit > before) this.#overLimit.failed({ bytes: this.bytes, limit })
  }

  #dropOldestLog(session: Session): boolean {
    const highest = highestOf(session)
    for (const entry of session.entries) {
      if (entry.isInFlight) continue
      const n = entry.lengths.findIndex(
        (length, n) => length > 0 && !(entry === highest?.entry && entry.numbers[n] === highest.number),
      )
      if (n < 0) continue
      this.#dropLog(entry, n)
      return true
    }
    return false
  }

  #dropLog(entry: Entry, n: number): void {
    const length = entry.lengths[n] ?? 0
    const bytes = length + LOG_BYTES
    const { session } = entry
    this.#options.totals.logs_dropped_over_limit++
    if (entry.logs === 1) return void this.release(entry)
    entry.lengths[n] = -length
    entry.logs--
    entry.bytes -= bytes
    this.#change(session, -1, -bytes)
    if (session.waiting.has(entry)) {
      session.waitingLogs--
      session.waitingBytes -= bytes
    }
  }

  #dropOldestEntry(): boolean {
    for (const entry of this.#entries) {
      if (entry.isInFlight) continue
      this.#options.totals.logs_dropped_over_limit += entry.logs
      this.release(entry)
      return true
    }
    return false
  }
}

/** Parts of which each can be in a batch. */
function* partsOf(logs: WireLog[]): Generator<WireLog[]> {
  let part: WireLog[] = []
  let numbers = new Set<number>()
  for (const log of logs) {
    if (part.length === MAX_BATCH_LOGS || numbers.has(log.number)) {
      yield part
      part = []
      numbers = new Set()
    }
    part.push(log)
    numbers.add(log.number)
  }
  if (part.length > 0) yield part
}

function sortByAge(entries: Set<Entry>): void {
  const sorted = [...entries].toSorted((a, b) => a.time - b.time)
  entries.clear()
  for (const entry of sorted) entries.add(entry)
}

function isLive(entry: Entry, n: number): boolean {
  return (entry.lengths[n] ?? 0) > 0
}

/** What is left of a payload, in as few pieces as possible. */
function livePayloads(entry: Entry, payload: Buffer): Buffer[] {
  if (entry.logs === entry.lengths.length) return [payload]
  let at = 0
  return entry.lengths.flatMap((length) => {
    const start = at
    at += Math.abs(length)
    return length > 0 ? [payload.subarray(start, at)] : []
  })
}

function keyOf({ workspaceId, ownerId }: Ids, sessionId: string): string {
  return `${workspaceId}/${ownerId}/${sessionId}`
}

function highestOf(session: Session): Session['highest'] {
  if (session.highest === undefined) for (const entry of session.entries) raiseHighest(session, entry)
  return session.highest
}

function raiseHighest(session: Session, entry: Entry): void {
  for (const [n, number] of entry.numbers.entries())
    if (isLive(entry, n) && number >= (session.highest?.number ?? Number.NEGATIVE_INFINITY))
      session.highest = { entry, number }
}
