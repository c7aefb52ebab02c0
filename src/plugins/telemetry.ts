// Owns the snapshots: takes them on demand and on schedule, and counts how that went.

import fp from 'fastify-plugin'
import type { Config } from '../config.js'
import { DatabaseUnavailableError } from '../database/client.js'
import { runSchedule } from '../telemetry/schedule.js'
import {
  previewSnapshot,
  type Snapshot,
  type SnapshotOutcome,
  type Trigger,
  takeSnapshot,
} from '../telemetry/snapshot.js'

declare module 'fastify' {
  interface FastifyInstance {
    telemetry: {
      /** Flushes this replica, then shows the period in progress. */
      preview(): Promise<Snapshot>
      /** Flushes this replica, then takes the snapshot or says why not. */
      snapshot(trigger: Trigger): Promise<SnapshotOutcome>
    }
  }
}

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const { metrics, usage, database, shutdown } = app
    const { replicaId } = usage.replica

    async function snapshot(trigger: Trigger): Promise<SnapshotOutcome> {
      const start = performance.now()
      try {
        await usage.flush()
        const outcome = await database.run((db) =>
          takeSnapshot(db, { trigger, reportedBy: replicaId, intervalMs: config.SNAPSHOT_INTERVAL_MS }),
        )
        metrics.snapshots.inc({ trigger, result: outcome.result })
        if (outcome.result === 'taken') {
          metrics.snapshotDuration.observe((performance.now() - start) / 1000)
          metrics.snapshotLastSuccess.set(outcome.snapshot.taken_at.getTime() / 1000)
          app.log.info({ snapshot: outcome.snapshot }, 'snapshot taken')
        }
        return outcome
      } catch (error) {
        metrics.snapshots.inc({ trigger, result: 'failed' })
        throw error
      }
    }

    app.decorate('telemetry', {
      snapshot,
      async preview() {
        await usage.flush()
        return database.run((db) => previewSnapshot(db, replicaId))
      },
    })

    if (config.SNAPSHOT_INTERVAL_MS === 0) return
    const schedule = database.prepared.then(() =>
      runSchedule(
        {
          intervalMs: config.SNAPSHOT_INTERVAL_MS,
          attempt: () => snapshot('schedule'),
          onError: (err) => {
            // A lost database is told once, where it is noticed.
            if (!(err instanceof DatabaseUnavailableError))
              app.log.error({ err }, 'scheduled snapshot failed: it will be tried again')
          },
        },
        shutdown.signal,
      ),
    )
    schedule.catch(() => {}) // told by database.prepared
  },
  { name: 'telemetry', dependencies: ['metrics', 'shutdown', 'database', 'usage'] },
)
