// Owns the tracker and its flush interval: registers the replica, flushes on time, and once more at the end.

import { randomUUID } from 'node:crypto'
import fp from 'fastify-plugin'
import type { Config } from '../config.js'
import { DatabaseUnavailable, OutcomeUnknown } from '../http/errors.js'
import { outageLog } from '../log.js'
import type { Timing } from '../timing.js'
import { version } from '../version.js'
import { applyFlush, type Replica, registerReplica } from './flush.js'
import { CommitTimeoutError, Flusher } from './flusher.js'
import { sketchHash } from './sketch.js'
import { Tracker } from './tracker.js'

/** Ready no longer when the oldest unflushed usage is older than this many flush intervals. */
const STALE_INTERVALS = 10

declare module 'fastify' {
  interface FastifyInstance {
    counting: {
      readonly replica: Replica
      readonly tracker: Tracker
      /** Resolves once everything tracked before the call is in the database. */
      flush(): Promise<void>
      /** Counts a batch; with ACK=durable, resolves once it is committed. */
      count(workspaceId: string, ownerId: string, allowed: number, denied: number): void | Promise<void>
      /** Why this replica should get no traffic, if it should not. */
      readonly unready: string | undefined
      /** Whether the final flush carried everything. */
      readonly isSettled: boolean
    }
  }
}

export default fp<{ config: Config; timing: Timing }>(
  async (app, { config, timing }) => {
    const replica = { replicaId: randomUUID(), name: config.REPLICA_NAME, version }
    const tracker = new Tracker(config.EXACT_LIMIT)
    const { metrics, database, shutdown } = app

    const closing = new AbortController()
    const trouble = outageLog(app.log, 'error', 'flush failed: it will be tried again', 'flushes work again')
    const flusher = new Flusher({
      tracker,
      apply: (batch) => database.run((db) => applyFlush(db, replica, batch)),
      onAttempt: (outcome, seconds) => {
        metrics.flushes[outcome.result]++
        metrics.flushDuration.observe(seconds)
        if (outcome.result !== 'failed') {
          metrics.flushLastSuccess.set(Date.now() / 1000)
          trouble.recovered()
          if (outcome.newPeriod) app.log.info('period opened')
        } else if (database.up) trouble.failed({ err: outcome.error }) // a lost one is told where it is noticed
        tellReadiness()
      },
    })
    let isSettled = true

    function unready(): string | undefined {
      if (config.ACK === 'durable' && flusher.isFailing)
        return 'the database cannot be reached, and ACK=durable needs it'
      if (tracker.unflushedAge > STALE_INTERVALS * config.FLUSH_INTERVAL_MS)
        return `usage has been waiting for the database for over ${STALE_INTERVALS} flush intervals`
      return undefined
    }

    // After every try: what waits is tried at least once an interval, so no change goes unnoticed for longer.
    let isReady = false
    function tellReadiness(): void {
      const reason = unready()
      if (isReady === (reason === undefined) || shutdown.signal.aborted) return
      isReady = !isReady
      if (isReady)
        app.log.info({ replica_id: replica.replicaId, replica_name: replica.name, version }, 'ready')
      else app.log.warn({ reason }, 'not ready')
    }

    // Refused before it is tracked: an answer that is not 2xx counts nothing.
    function count(...batch: Parameters<Tracker['track']>): void {
      if (tracker.isFull) throw new DatabaseUnavailable()
      tracker.track(...batch)
    }

    async function countDurably(...batch: Parameters<Tracker['track']>): Promise<void> {
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
      'Requests counted that are not in the database yet.',
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
      'Time between two flushes, as set.',
      () => config.FLUSH_INTERVAL_MS / 1000,
    )
    metrics.gauges(
      'boundary_usage_tracked_ids',
      'Distinct ids that this replica has seen in the period in progress.',
      'kind',
      () => ({ workspace: tracker.tracked.workspaces, user: tracker.tracked.users }),
    )

    const background = database.prepared.then(async ({ sketchKey }) => {
      tracker.useHash(sketchHash(sketchKey))
      tellReadiness()
      await database
        .run((db) => registerReplica(db, replica))
        .catch((err) => {
          if (database.up) app.log.warn({ err }, 'replica not registered yet: its first flush will do that')
        })
      await flusher.run(config.FLUSH_INTERVAL_MS, closing.signal)
    })
    background.catch((err) => {
      if (database.isPrepared) app.log.fatal({ err }, 'flushes have ended') // else told by database.prepared
    })

    app.addHook('onClose', async () => {
      // Not when the shutdown begins: requests under way may wait for a commit.
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
      }
    })
  },
  { name: 'counting', dependencies: ['metrics', 'shutdown', 'database'] },
)
