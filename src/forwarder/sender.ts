// Sends what the store holds: forms batches, keeps a few in flight, and decides by each response what happens next.
//
// Logs of the forwarder's present ids and logs of other ids, which an earlier forwarder left, are sent side by side in
// lanes. A lane has its own outages, so logs that nobody accepts never delay the others; other ids go last.

import { setMaxListeners } from 'node:events'
import { backoff } from '../async.js'
import { type Credentials, type Ids, sameIds } from './credentials.js'
import { type Log, Trouble } from './log.js'
import type { Client, Outcome } from './post.js'
import type { Entry, Session, Store } from './store.js'
import type { Totals } from './totals.js'
import { batchOf } from './wire.js'

const MAX_IN_FLIGHT = 4
/** How long a log waits for others of its session. */
const GATHER_MS = 2_000
/** With its jitter it begins at half a second. */
const FIRST_BACKOFF_MS = 1_000
const MAX_BACKOFF_MS = 10_000
/** How long to wait after the service has not accepted the token. */
const UNAUTHORIZED_MS = 10_000
/** setTimeout takes no more. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1

interface Batch {
  readonly session: Session
  readonly entries: Entry[]
  /** How often it failed. */
  attempts: number
  /** How often it failed while others succeeded: it goes behind them. */
  demerits: number
  notBefore: number
  isInFlight: boolean
  /** A frame of a batch that was refused: if it is refused alone, it is given up. */
  isAlone: boolean
}

/** What is known of one set of ids. */
interface Lane {
  readonly ids: Ids
  batches: Set<Batch>
  inFlight: number
  /** Failures since the last success. */
  failures: number
  /** During an outage nothing is sent before. */
  notBefore: number
  lastSuccess: number
  readonly outage: Trouble
  readonly unauthorized: Trouble
}

export interface SenderOptions {
  urls: URL[]
  credentials: Credentials
  store: Store
  client: Client
  totals: Totals
  log: Log
  gatherMs?: number
}

export class Sender {
  readonly #options: SenderOptions
  readonly #gatherMs: number
  readonly #lanes = new Map<string, Lane>()
  readonly #refusals: Set<string> = new Set()
  readonly #stopping = new AbortController()
  #url = 0
  #timer: NodeJS.Timeout | undefined
  #look: NodeJS.Immediate | undefined
  #isHasty = false

  constructor(options: SenderOptions) {
    this.#options = options
    this.#gatherMs = options.gatherMs ?? GATHER_MS
    setMaxListeners(0, this.#stopping.signal)
  }

  /** To be called when logs have been added. */
  notify(): void {
    // Frames arrive by the thousand; one look for all that came at once is enough.
    this.#look ??= setImmediate(() => this.wake())
  }

  /** Looks whether something can be sent. */
  wake(): void {
    clearImmediate(this.#look)
    this.#look = undefined
    if (this.#timer !== undefined) clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#stopping.signal.aborted) return
    const next = this.#send(performance.now())
    if (next === Number.POSITIVE_INFINITY) return
    const delay = Math.min(Math.max(next - performance.now(), 1), MAX_TIMEOUT_MS)
    this.#timer = setTimeout(() => this.wake(), delay)
  }

  /** From now on logs wait for no others, and what waits for another attempt gets it at once. */
  hurry(): void {
    this.#isHasty = true
    for (const lane of this.#lanes.values()) {
      lane.notBefore = 0
      for (const batch of lane.batches) batch.notBefore = 0
    }
    this.wake()
  }

  /** Sends nothing more, and abandons requests in flight: their logs stay held. */
  stop(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer)
    this.#stopping.abort()
  }

  /** Starts what may be started; returns when to look again. */
  #send(now: number): number {
    const { store, credentials } = this.#options
    for (const session of store.sessions.values()) if (session.waiting.size > 0) this.#lane(session.ids)
    const present = this.#lane(credentials.ids)
    let next = this.#sendLane(present, MAX_IN_FLIGHT, now)
    // Others only when nothing of the present ids is left that could be sent now.
    for (const lane of this.#lanes.values())
      if (lane !== present)
        next = Math.min(next, this.#sendLane(lane, present.inFlight < MAX_IN_FLIGHT ? 1 : 0, now))
    return next
  }

  #sendLane(lane: Lane, limit: number, now: number): number {
    for (;;) {
      const isOutage = lane.failures > 0
      // In an outage one batch goes ahead; its response decides about the rest.
      if (lane.inFlight >= (isOutage ? Math.min(limit, 1) : limit)) return Number.POSITIVE_INFINITY
      if (now < lane.notBefore) return lane.notBefore
      const { batch, session, at } = this.#candidate(lane, isOutage, now)
      if (at > now) return at
      if (batch) void this.#attempt(lane, batch)
      else if (session) void this.#attempt(lane, this.#form(lane, session))
    }
  }

  /** What to send next; or, if `at` is later than now, when there will be something. */
  #candidate(lane: Lane, isOutage: boolean, now: number): { batch?: Batch; session?: Session; at: number } {
    let best: { batch?: Batch; session?: Session; rank: number; time: number } | undefined
    let next = Number.POSITIVE_INFINITY
    const consider = (at: number, rank: number, time: number, what: { batch?: Batch; session?: Session }) => {
      if (at > now) next = Math.min(next, at)
      else if (best === undefined || rank < best.rank || (rank === best.rank && time < best.time))
        best = { ...what, rank, time }
    }
    for (const batch of lane.batches) {
      if (batch.isInFlight) continue
      const [oldest] = batch.entries
      // In an outage batches take turns, so that a bad one among them does not prolong it.
      consider(batch.notBefore, isOutage ? batch.attempts : batch.demerits, oldest?.time ?? 0, { batch })
    }
    for (const session of this.#options.store.sessions.values()) {
      const [oldest] = session.waiting
      if (oldest === undefined || !sameIds(session.ids, lane.ids)) continue
      const age = Date.now() - oldest.time
      // A clock that was set back must not hold logs.
      const isReady = this.#isHasty || age < 0 || age >= this.#gatherMs || this.#options.store.isFull(session)
      consider(isReady ? now : now + this.#gatherMs - age, 0, oldest.time, { session })
    }
    return best ? { ...best, at: now } : { at: next }
  }

  #form(lane: Lane, session: Session): Batch {
    return this.#addBatch(lane, session, this.#options.store.takeBatch(session), false)
  }

  #addBatch(lane: Lane, session: Session, entries: Entry[], isAlone: boolean): Batch {
    const batch = { session, entries, attempts: 0, demerits: 0, notBefore: 0, isInFlight: false, isAlone }
    lane.batches.add(batch)
    return batch
  }

  async #attempt(lane: Lane, batch: Batch): Promise<void> {
    const { client, credentials, store, urls } = this.#options
    const began = performance.now()
    const index = this.#url
    lane.inFlight++
    mark(batch, true)
    const payloads = await store.load(batch.entries)
    if (payloads.length === 0) {
      this.#settle(lane, batch)
    } else {
      const url = urls[index % urls.length] ?? new URL('http://127.0.0.1')
      const { token } = credentials
      const body = batchOf(batch.session.id, payloads)
      const outcome = await client.post(url, body, batch.session.ids, token, this.#stopping.signal)
      if (this.#stopping.signal.aborted && outcome.kind !== 'accepted') return mark(batch, false)
      this.#conclude(lane, batch, outcome, { began, index, token, url })
    }
    lane.inFlight--
    this.wake()
  }

  #conclude(
    lane: Lane,
    batch: Batch,
    outcome: Outcome,
    { began, index, token, url }: { began: number; index: number; token: string | undefined; url: URL },
  ): void {
    const { credentials, log, totals } = this.#options
    mark(batch, false)
    if (outcome.kind === 'accepted' || outcome.kind === 'refused') {
      lane.failures = 0
      lane.notBefore = 0
      lane.lastSuccess = performance.now()
      lane.outage.worked({ url: url.origin })
      lane.unauthorized.worked()
    }
    if (outcome.kind === 'accepted') {
      totals.logs_sent += countLogs(batch)
      return void this.#settle(lane, batch)
    }
    if (outcome.kind === 'refused') return void this.#refused(lane, batch, outcome.reason)

    const now = performance.now()
    batch.attempts++
    const didOthersSucceed = lane.lastSuccess > began
    if (didOthersSucceed) batch.demerits++
    if (outcome.kind === 'unauthorized') {
      lane.unauthorized.failed({ reason: outcome.reason, url: url.origin })
      // Another batch may have found the new token meanwhile.
      const hasChanged = credentials.reread() || credentials.token !== token
      if (hasChanged) log.info('using the new token of the token file')
      batch.notBefore = now + (hasChanged ? 0 : UNAUTHORIZED_MS)
      lane.failures++
      lane.notBefore = Math.max(lane.notBefore, batch.notBefore)
      return
    }
    batch.notBefore =
      now + Math.max(outcome.retryAfterMs, backoff(batch.attempts, FIRST_BACKOFF_MS, MAX_BACKOFF_MS))
    if (!didOthersSucceed) {
      lane.failures++
      lane.notBefore = Math.max(
        lane.notBefore,
        now + Math.max(outcome.retryAfterMs, backoff(lane.failures, FIRST_BACKOFF_MS, MAX_BACKOFF_MS)),
      )
      lane.outage.failed({ reason: outcome.reason, url: url.origin })
    } else log.debug('a batch failed while others succeeded', { reason: outcome.reason })
    // Unless another batch has moved on already.
    if (outcome.isElsewhereBetter && this.#url === index) this.#url++
  }

  /** Sends the frames of a refused batch once more, each alone; gives up what is refused alone. */
  #refused(lane: Lane, batch: Batch, reason: string): void {
    const { log, store, totals } = this.#options
    lane.batches.delete(batch)
    if (!batch.isAlone) {
      for (const entry of batch.entries) if (entry.isHeld) this.#addBatch(lane, batch.session, [entry], true)
      return
    }
    const logs = countLogs(batch)
    totals.logs_refused += logs
    // A defect of a boundary repeats; one line for each kind of it is enough.
    if (!this.#refusals.has(reason) && this.#refusals.size < 100) {
      this.#refusals.add(reason)
      log.error('the service refuses logs for good: they are given up', { reason, logs })
    }
    for (const entry of batch.entries) store.release(entry)
  }

  #settle(lane: Lane, batch: Batch): void {
    lane.batches.delete(batch)
    for (const entry of batch.entries) this.#options.store.release(entry)
  }

  #lane(ids: Ids): Lane {
    const key = `${ids.workspaceId}/${ids.ownerId}`
    const known = this.#lanes.get(key)
    if (known) return known
    const { log } = this.#options
    const lane: Lane = {
      ids,
      batches: new Set(),
      inFlight: 0,
      failures: 0,
      notBefore: 0,
      lastSuccess: 0,
      outage: new Trouble(
        log,
        'the service takes no logs: they are kept and sent later',
        'the service takes logs again',
      ),
      unauthorized: new Trouble(
        log,
        'the service does not accept the token',
        'the service accepts the token again',
      ),
    }
    this.#lanes.set(key, lane)
    return lane
  }
}

function mark(batch: Batch, isInFlight: boolean): void {
  batch.isInFlight = isInFlight
  for (const entry of batch.entries) entry.isInFlight = isInFlight
}

function countLogs({ entries }: Batch): number {
  return entries.reduce((sum, entry) => sum + (entry.isHeld ? entry.logs : 0), 0)
}
