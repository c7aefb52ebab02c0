// Reports to the others up to which moment this replica's usage is in the database: heartbeats, and cuts where periods end.

import fp from 'fastify-plugin'
import { backoff, pause, Waker } from '../async.js'
import type { Config } from '../config.js'
import { beat } from '../counting/replica.js'
import type { Executor } from '../database/client.js'
import { outageLog } from '../log.js'
import type { Timing } from '../timing.js'
import { announce, announceCall, parseAnnouncement } from './announcements.js'
import { boundaryBefore, DatabaseClock } from './clock.js'

/** So many replicas can flush at one moment. */
const UNSPREAD_REPLICAS = 20
/** What a flush takes the database. */
const FLUSH_MS = 5
/** How much longer a snapshot may take than its grace period. */
const HOLD_MARGIN_MS = 500
const FIRST_RETRY_MS = 100
/** The parts of a short interval for which a snapshot waits, and flushes are held back. */
const WAITED_PART = 0.5
const HELD_PART = 0.75
/** While a process starts, its heartbeats take long: more of them follow, until one gives the clock to within this. */
const PRECISE_MS = 10
const MAX_IMPRECISE = 50
/** A moment so far ahead of the clock is one from before it was set back. */
const SET_BACK_MS = 1_000

declare module 'fastify' {
  interface FastifyInstance {
    reporting: {
      readonly clock: DatabaseClock
      /** Resolves at the first heartbeat, which gives the clock. */
      readonly started: Promise<void>
      /** Whether other replicas hear a call. */
      readonly canCall: boolean
      /** Whether no live replica started before this one, as of the last heartbeat. */
      readonly isOldest: boolean
      /** Resolves once the database has all that this replica tracked before that moment. */
      report(until: number): Promise<void>
      /**
       * Fixes the present moment, by the database's clock, and makes every replica report up to it. Resolves with it once
       * this replica has.
       */
      call(): Promise<number>
      /** How long a scheduled snapshot waits for reports: the next boundary must not find it waiting. */
      readonly scheduledGraceMs: number
      /** Tells all replicas that nothing waits for their reports up to `until` any longer. */
      end(kind: 'taken' | 'released', until: number): Promise<void>
      /** Ends the wait of this replica's flushes for the snapshot of the period that ended at `until`. */
      release(kind: 'taken' | 'released', until: number): void
      /** Calls `listener` when another replica has recorded a snapshot of the period that ended at `until`. */
      onRecorded(listener: (until: number) => void): void
    }
  }
}

/**
 *   ──────────────────T─────────────────────────────────┬────────►
 *    sealed at T, and │ held back until the snapshot    │ flushed, into the
 *    flushed at once  │ is taken, or while it can be    │ next period's row
 *
 * T is a boundary, which every replica knows, or the moment of a call. A heartbeat gives the offset of this process's
 * clock to the database's. Where there is a connection that listens, heartbeats are sent on it: if it is dead, they fail
 * and another one is opened. Only a flush or heartbeat that carries a cut changes `reported_until`, and the flusher runs
 * these one after another, so that no report replaces a later one.
 */
export default fp<{ config: Config; timing: Timing }>(
  async (app, { config, timing }) => {
    const { counting, database, shutdown } = app
    const { cuts, replica } = counting
    const { SNAPSHOT_GRACE_MS: graceMs, SNAPSHOT_INTERVAL_MS: intervalMs } = config
    const { signal } = shutdown
    const clock = new DatabaseClock()
    const listeners: ((until: number) => void)[] = []
    const waker = new Waker()
    let live = 1
    let isOldest = false

    const longestHoldMs = Math.max(graceMs, timing.checkMs) + HOLD_MARGIN_MS
    const holdMs = config.ACK === 'durable' ? Math.min(longestHoldMs, timing.durableHoldMs) : longestHoldMs

    /** The last cut, and its report. */
    let last: { until: number; reported: Promise<void> } | undefined

    /** Whether the last report contains one up to `until`: not if the clock has been set back since. */
    const isReported = (until: number) =>
      last !== undefined &&
      (last.until === until ||
        (last.until > until && clock.isKnown && last.until < clock.now() + SET_BACK_MS))

    /** Cuts at `until`, once. All replicas do so at the same time: `delayMs` spreads their flushes. */
    function report(until: number, { delayMs = 0, heldMs = graceMs > 0 ? holdMs : 0 } = {}): Promise<void> {
      if (last && isReported(until)) return last.reported
      const reported = cuts.report(until, { delayMs, holdMs: heldMs })
      const cut = { until, reported }
      last = cut
      reported.catch(() => {
        if (last === cut) last = undefined // to be tried again; the flusher reports its failures
      })
      return reported
    }

    function spreadMs(): number {
      const neededMs = Math.max(0, live - UNSPREAD_REPLICAS) * FLUSH_MS
      return isOldest ? 0 : Math.random() * Math.min(graceMs / 4, neededMs)
    }

    /** A snapshot has taken what was flushed before `until`, and leaves nothing to wait for at earlier moments. */
    function release(kind: 'taken' | 'released', until: number): void {
      cuts.release(until, { earlier: kind === 'taken' })
    }

    /**
     * Whether a replica can have announced that moment. Any user of the database can send such a message: a moment to come
     * would be recorded as reported, and end the schedule of snapshots.
     */
    const hasCome = (until: number) => clock.isKnown && until < clock.now() + SET_BACK_MS

    function hear(message: string): void {
      const heard = parseAnnouncement(message)
      if (!heard || heard.by === replica.replicaId || !hasCome(heard.until)) return
      const { kind, until } = heard
      if (kind === 'call')
        report(until, { delayMs: spreadMs() }).catch(() => {}) // the flusher reports its failures
      else release(kind, until)
      if (kind === 'taken') for (const listener of listeners) listener(until)
    }

    const listener = database.listen({ onMessage: hear, onLost: () => waker.wake() })

    let begin = () => {}
    const started = new Promise<void>((resolve) => {
      begin = resolve
    })

    async function beatOnce(db: Executor): Promise<void> {
      const sentAt = performance.now()
      const heartbeat = await beat(db, replica)
      clock.observe(sentAt, heartbeat.now)
      ;({ live, isOldest } = heartbeat)
    }

    async function keepBeating(): Promise<void> {
      const outages = outageLog(
        app.log,
        'warn',
        'heartbeat failed: it will be retried',
        'heartbeats work again',
      )
      let failures = 0
      let imprecise = 0
      while (!signal.aborted) {
        try {
          await (listener ? listener.run(beatOnce) : database.run(beatOnce, { lane: 'flush' }))
          begin()
          failures = 0
          outages.recovered()
        } catch (err) {
          if (signal.aborted) return // the shutdown has closed its connection
          failures++
          if (database.up) outages.failed({ err }) // the database plugin logs an outage
        }
        // With jitter: replicas that start together do not stay together.
        imprecise = clock.error > PRECISE_MS ? imprecise + 1 : 0
        const delayMs =
          failures > 0
            ? backoff(failures, FIRST_RETRY_MS, timing.heartbeatMs / 4)
            : imprecise > 0 && imprecise < MAX_IMPRECISE
              ? FIRST_RETRY_MS
              : timing.heartbeatMs * (0.8 + 0.2 * Math.random())
        await waker.wait(delayMs, { signal })
      }
    }

    /** Reports at every boundary, also without scheduled snapshots: what is missing is determined by reports. */
    async function reportAtBoundaries(): Promise<void> {
      await started
      const lengthMs = intervalMs > 0 ? intervalMs : timing.reportMs
      const heldMs = graceMs > 0 ? Math.min(holdMs, HELD_PART * intervalMs) : 0
      for (let previous = boundaryBefore(clock.now(), lengthMs); !signal.aborted; ) {
        const boundary = boundaryBefore(clock.now(), lengthMs)
        if (boundary !== previous) report(boundary, { delayMs: spreadMs(), heldMs }).catch(() => {}) // as above
        previous = boundary
        // Not at once until a boundary that is far away: the next heartbeat corrects the clock.
        const untilNext = boundary + lengthMs - clock.now()
        await pause(Math.min(Math.max(0, untilNext), timing.heartbeatMs), { signal, ref: false })
      }
    }

    const background = database.prepared.then(() => Promise.all([keepBeating(), reportAtBoundaries()]))
    background.catch((err) => {
      if (database.isPrepared) app.log.fatal({ err }, 'reporting has stopped') // the server logs a rejection of database.prepared
    })

    async function end(kind: 'taken' | 'released', until: number): Promise<void> {
      release(kind, until)
      try {
        await database.run((db) => announce(db, { kind, until, by: replica.replicaId }))
      } catch (err) {
        if (database.up)
          app.log.warn({ err }, 'the end of a snapshot was not announced: replicas wait longer')
      }
    }

    app.decorate('reporting', {
      clock,
      started,
      canCall: listener !== undefined,
      scheduledGraceMs: Math.min(graceMs, WAITED_PART * intervalMs),
      get isOldest() {
        return isOldest
      },
      report,
      async call() {
        const until = await database.run((db) => announceCall(db, replica.replicaId), { lane: 'request' })
        await report(until)
        return until
      },
      end,
      release,
      onRecorded: (listener) => void listeners.push(listener),
    })

    app.addHook('onClose', async () => {
      await listener?.close()
    })
  },
  { name: 'reporting', dependencies: ['shutdown', 'database', 'counting'] },
)
