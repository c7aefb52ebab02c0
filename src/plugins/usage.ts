// Owns the tracker and its flush interval: registers the replica, flushes on time, and once more at the end.

import { randomUUID } from 'node:crypto'
import fp from 'fastify-plugin'
import type { Config } from '../config.js'
import { DatabaseUnavailableError } from '../database/client.js'
import { applyFlush, type Replica, registerReplica } from '../usage/flush.js'
import { Flusher } from '../usage/flusher.js'
import { Tracker } from '../usage/tracker.js'
import { version } from '../version.js'

/** Ready no longer when the oldest unflushed usage is older than this many flush intervals. */
const STALE_INTERVALS = 10

declare module 'fastify' {
  interface FastifyInstance {
    usage: {
      readonly replica: Replica
      readonly tracker: Tracker
      /** Resolves once everything tracked before the call is in the database. */
      flush(): Promise<void>
      /** Whether usage has been waiting for the database for too long. */
      readonly isStale: boolean
      /** Whether the final flush carried everything. */
      readonly isSettled: boolean
    }
  }
}

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const replica = { replicaId: randomUUID(), name: config.REPLICA_NAME, version }
    const tracker = new Tracker()
    const { metrics, database, shutdown } = app

    let wasFailing = false
    const flusher = new Flusher({
      tracker,
      apply: (batch) => database.run((db) => applyFlush(db, replica, batch)),
      onTry: (result, seconds, err) => {
        metrics.flushes.inc({ result })
        metrics.flushDuration.observe(seconds)
        if (result !== 'failed') metrics.flushLastSuccess.set(Date.now() / 1000)
        // One line when it begins; a lost database is told where it is noticed.
        const isFailing = result === 'failed' && !(err instanceof DatabaseUnavailableError)
        if (isFailing && !wasFailing) app.log.error({ err }, 'flush failed: it will be tried again')
        wasFailing = isFailing
      },
    })
    let isSettled = true

    app.decorate('usage', {
      replica,
      tracker,
      flush: () => flusher.flush(),
      get isStale() {
        return tracker.unflushedAge > STALE_INTERVALS * config.FLUSH_INTERVAL_MS
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
    metrics.gauges(
      'boundary_usage_tracked_ids',
      'Distinct ids held in memory for the period in progress.',
      'kind',
      () => ({ workspace: tracker.tracked.workspaces, user: tracker.tracked.users }),
    )

    const background = database.prepared.then(async () => {
      await database
        .run((db) => registerReplica(db, replica))
        .catch((err) => app.log.warn({ err }, 'replica not registered yet: its first flush will do that'))
      await flusher.run(config.FLUSH_INTERVAL_MS, shutdown.signal)
    })
    background.catch(() => {}) // told by database.prepared

    app.addHook('onClose', async () => {
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
  { name: 'usage', dependencies: ['metrics', 'shutdown', 'database'] },
)
