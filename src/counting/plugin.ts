// Runs this replica's counting: the tracker, a flush per interval, and the final flush at shutdown.

import { randomUUID } from 'node:crypto'
import fp from 'fastify-plugin'
import { timeout } from '../async.js'
import { type Config, isOpen } from '../config.js'
import { Patience } from '../database/patience.js'
import { DatabaseUnavailable, OutcomeUnknown, TooManySessions } from '../http/errors.js'
import { outageLog } from '../log.js'
import type { Timing } from '../timing.js'
import { version } from '../version.js'
import { CostShares } from './cost-shares.js'
import { applyFlush, type FlushOutcome } from './flush.js'
import { CommitTimeoutError, Flusher } from './flusher.js'
import { type Kind, NewIds } from './new-ids.js'
import { type Replica, recordStop } from './replica.js'
import { sessionHash } from './sessions.js'
import { sketchHash } from './sketch.js'
import { type Flush, Tracker } from './tracker.js'

/** The replica is not ready if its oldest unflushed usage is older than this many flush intervals. */
const STALE_INTERVALS = 10

/**
 * Counts a batch; with ACK=durable, resolves once it is committed. NEW_IDS_LIMIT applies to `credential`, unless it is
 * undefined: a JWT, which has one workspace and one owner.
 */
type Count = (
  credential: string | undefined,
  workspaceId: string,
  ownerId: string,
  allowed: number,
  denied: number,
  session: Parameters<Tracker['track']>[4],
) => void | Promise<void>

declare module 'fastify' {
  interface FastifyInstance {
    counting: {
      readonly replica: Replica
      readonly tracker: Tracker
      /** Resolves once everything tracked before the call is in the database. */
      flush(): Promise<void>
      readonly count: Count
      /** Ends a part of what is tracked where a period ends: see Flusher. */
      readonly cuts: Pick<Flusher, 'report' | 'release'>
      /** Why this replica is not ready; undefined if it is. */
      readonly unready: string | undefined
      /** Whether all usage is in the database; valid after close. */
      readonly isSettled: boolean
    }
  }
}

export default fp<{ config: Config; timing: Timing }>(
  async (app, { config, timing }) => {
    const replica = { replicaId: randomUUID(), name: config.REPLICA_NAME, version }
    const tracker = new Tracker(config.EXACT_LIMIT)
    const { metrics, database, shutdown } = app

    const overLimit = metrics.counter(
      'boundary_usage_ids_over_limit_total',
      'Ids that were not counted, because their credential had added NEW_IDS_LIMIT ids of that kind to the period.',
      'kind',
      ['workspace', 'user'],
    )
    const newIds = new NewIds(config.NEW_IDS_LIMIT, () =>
      app.log.warn(
        { limit: config.NEW_IDS_LIMIT },
        'a credential has reached NEW_IDS_LIMIT: until the next period, its requests are counted and its new ids are not',
      ),
    )
    /** Without tokens, all clients are one: each could have many addresses. */
    const open = isOpen(config)

    const shares = new CostShares()

    const closing = new AbortController()
    /** A flush never changes, so that its content must not keep the replica from flushing for good. */
    const patience = new Patience()
    const apply = (flush: Flush): Promise<FlushOutcome> =>
      patience.attempt((statementTimeoutMs) =>
        database.run((db) => applyFlush(db, replica, flush), { lane: 'flush', statementTimeoutMs }),
      )

    const failures = outageLog(app.log, 'error', 'flush failed: it will be retried', 'flushes work again')
    const flusher = new Flusher({
      tracker,
      apply,
      onAttempt: (outcome, seconds, flush) => {
        if (flush.since === undefined && outcome.result !== 'failed') return // it only reported
        metrics.flushes[outcome.result]++
        metrics.flushDuration.observe(seconds)
        if (outcome.result !== 'failed') {
          metrics.duplicates.inc(outcome.duplicates)
          metrics.flushLastSuccess.set(Date.now() / 1000)
          failures.recovered()
          if (outcome.newPeriod) {
            newIds.forget()
            app.log.info('period opened')
          }
        } else if (database.up) failures.failed({ err: outcome.error }) // the database plugin logs an outage
        logReadiness()
      },
    })
    let isSettled = true

    function unready(): string | undefined {
      if (config.ACK === 'durable' && flusher.isFailing)
        return 'the database is unavailable, and ACK=durable requires it'
      if (tracker.unflushedAge > STALE_INTERVALS * config.FLUSH_INTERVAL_MS)
        return `usage has been waiting for the database for over ${STALE_INTERVALS} flush intervals`
      return undefined
    }

    // Called after every attempt. Unflushed usage is attempted at least once per interval, so no change is missed for longer.
    let isReady = false
    function logReadiness(): void {
      const reason = unready()
      if (isReady === (reason === undefined) || shutdown.signal.aborted) return
      isReady = !isReady
      if (isReady)
        app.log.info({ replica_id: replica.replicaId, replica_name: replica.name, version }, 'ready')
      else app.log.warn({ reason }, 'not ready')
    }

    function admit(credential: string | undefined, kind: Kind): boolean {
      if (credential === undefined || newIds.admit(open ? '' : credential, kind)) return true
      overLimit[kind === 'workspaces' ? 'workspace' : 'user']++
      return false
    }

    // Rejects before tracking: a rejected batch must not be counted.
    const count: Count = (credential, workspaceId, ownerId, allowed, denied, session) => {
      if (tracker.isFull) throw new DatabaseUnavailable()
      const sender = session && !open ? (credential ?? workspaceId) : undefined
      if (session && tracker.isFullOfSessions) throw new TooManySessions()
      if (sender !== undefined) {
        if (tracker.sessionCost === 0) shares.forget()
        if (shares.isUsedUp(sender)) throw new TooManySessions()
      }
      tracker.track(workspaceId, ownerId, allowed, denied, session, (kind) => admit(credential, kind))
      if (sender !== undefined) shares.add(sender, tracker.sessionCost)
      if (tracker.isFlushDue) flusher.hurry()
    }

    const countDurably: Count = async (...batch) => {
      if (!database.isPrepared || flusher.isFailing) throw new DatabaseUnavailable()
      count(...batch)
      try {
        await flusher.commit(timing.commitDeadlineMs)
      } catch (error) {
        throw error instanceof CommitTimeoutError ? new OutcomeUnknown() : error
      }
    }

    app.decorate('counting', {
      replica,
      tracker,
      flush: () => flusher.flush(),
      cuts: flusher,
      count: config.ACK === 'durable' ? countDurably : count,
      get unready() {
        return unready()
      },
      get isSettled() {
        return isSettled
      },
    })

    metrics.gauge(
      'boundary_usage_unflushed_requests',
      'Counted requests that are not in the database yet.',
      () => {
        const { allowed, denied } = tracker.unflushed
        return allowed + denied
      },
    )
    metrics.gauge(
      'boundary_usage_unflushed_age_seconds',
      'Age of the oldest usage that is not in the database yet; 0 if there is none.',
      () => tracker.unflushedAge / 1000,
    )
    metrics.gauge(
      'boundary_usage_flush_interval_seconds',
      'Time between two flushes, as configured.',
      () => config.FLUSH_INTERVAL_MS / 1000,
    )
    metrics.gauges(
      'boundary_usage_tracked_ids',
      'Distinct ids that this replica has seen in the current period.',
      'kind',
      () => ({ workspace: tracker.tracked.workspaces, user: tracker.tracked.users }),
    )

    const background = database.prepared.then(async ({ sketchKey, replicaName }) => {
      replica.name = replicaName
      tracker.useHash(sketchHash(sketchKey), sessionHash(sketchKey))
      logReadiness()
      await flusher.run(config.FLUSH_INTERVAL_MS, closing.signal)
    })
    background.catch((err) => {
      if (database.isPrepared) app.log.fatal({ err }, 'flushing has stopped') // the server logs a rejection of database.prepared
    })

    app.addHook('onClose', async () => {
      // Not at the start of the shutdown: requests in progress may wait for a commit.
      closing.abort()
      try {
        await flusher.drain(shutdown.remainingMs())
      } catch (err) {
        const { allowed, denied } = tracker.unflushed
        isSettled = false
        app.log.error(
          { err, allowed_requests: allowed, denied_requests: denied },
          'the final flush failed: these requests may be lost',
        )
        return
      }
      if (!database.isPrepared) return // it has never been registered
      // Snapshots would only wait for a replica that has nothing to report.
      await timeout(shutdown.remainingMs(), () =>
        database.run((db) => recordStop(db, replica), { lane: 'flush' }),
      ).catch((err) => {
        if (database.up) app.log.warn({ err }, 'the end of this replica was not recorded')
      })
    })
  },
  { name: 'counting', dependencies: ['metrics', 'shutdown', 'database'] },
)
