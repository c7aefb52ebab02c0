// Takes snapshots on demand and on schedule, measures that, and keeps the history: merges days and prunes old rows.

import fp from 'fastify-plugin'
import { Coalescer, pause, Waker } from '../async.js'
import type { Config } from '../config.js'
import { Patience } from '../database/patience.js'
import { NotFound } from '../http/errors.js'
import { outageLog } from '../log.js'
import { waitForReports } from '../reporting/late.js'
import type { Timing } from '../timing.js'
import { mergeIntoDays } from './days.js'
import { findSnapshot, type RecordedSnapshot } from './history.js'
import { pruneReplicas, pruneSessions, pruneSnapshots } from './retention.js'
import { Schedule } from './schedule.js'
import {
  previewSnapshot,
  type SnapshotOutcome,
  type SnapshotPreview,
  type Trigger,
  takeSnapshot,
} from './snapshot.js'

/** History is kept once a day even if no snapshot is taken. */
const LONGEST_WAIT_MS = 86_400_000

declare module 'fastify' {
  interface FastifyInstance {
    snapshots: {
      /** The current period up to now. All replicas flush first; concurrent calls share one preview. */
      preview(): Promise<SnapshotPreview>
      /** Takes the snapshot of the period up to now. All replicas flush first. The outcome says if another one prevents it. */
      take(): Promise<SnapshotOutcome>
      /** Calls `listener` after every snapshot that this replica takes. */
      onTaken(listener: () => void): void
      /** The recorded snapshot; rejects with NotFound. */
      find(id: string): Promise<RecordedSnapshot>
    }
  }
}

export default fp<{ config: Config; timing: Timing }>(
  async (app, { config, timing }) => {
    const { metrics, counting, database, reporting, shutdown } = app
    // The embedded server has one replica, and one connection.
    const graceMs = config.DATABASE_URL === undefined ? 0 : config.SNAPSHOT_GRACE_MS
    const { replicaId } = counting.replica
    const listeners: (() => void)[] = []
    const historyGrew = new Waker()

    metrics.gauge(
      'boundary_usage_snapshot_interval_seconds',
      'Time between two scheduled snapshots, as configured; 0 if there are none.',
      () => config.SNAPSHOT_INTERVAL_MS / 1000,
    )

    let missingLogs = 0
    metrics.gauge(
      'boundary_usage_missing_logs',
      'Logs that the last snapshot reported as missing; 0 on replicas that did not take it.',
      () => missingLogs,
    )

    let lateReplicas = 0
    metrics.gauge(
      'boundary_usage_late_replicas',
      'Replicas that had not reported when the last snapshot was taken; 0 on replicas that did not take it.',
      () => lateReplicas,
    )

    /** Runs `work`, which takes a snapshot unless another one prevents it. */
    async function measured(
      trigger: Trigger,
      work: () => Promise<SnapshotOutcome>,
    ): Promise<SnapshotOutcome> {
      const start = performance.now()
      const outcome = await work().catch((error: unknown) => {
        metrics.snapshots.inc({ trigger, result: 'failed' })
        throw error
      })
      metrics.snapshots.inc({ trigger, result: outcome.result })
      if (outcome.result === 'not_due') forget()
      if (outcome.result === 'taken') {
        metrics.snapshotDuration.observe((performance.now() - start) / 1000)
        metrics.snapshotLastSuccess.set(outcome.snapshot.taken_at.getTime() / 1000)
        missingLogs = outcome.snapshot.missing_requests
        lateReplicas = outcome.snapshot.late_replicas ?? 0
        app.log.info({ snapshot: outcome.snapshot }, 'snapshot taken')
        for (const listener of listeners) listener()
        historyGrew.wake()
      }
      return outcome
    }

    const patience = new Patience()
    /** Takes the snapshot of the period that ends at `until`, up to which this replica has reported. */
    const take = (trigger: Trigger, until: number, waitMs: number) =>
      patience.attempt((statementTimeoutMs) =>
        database.run(
          (db) =>
            takeSnapshot(db, {
              trigger,
              reportedBy: replicaId,
              until,
              graceMs: waitMs,
              silenceMs: timing.silenceMs,
              deliver: config.SINK_URL !== undefined,
            }),
          {
            lane: trigger === 'manual' ? 'request' : 'background',
            deadlineMs: timing.databaseDeadlineMs + waitMs,
            statementTimeoutMs,
          },
        ),
      )

    /** Another replica took the last snapshot. */
    function forget(): void {
      missingLogs = 0
      lateReplicas = 0
    }
    reporting.onRecorded(forget)

    /** Replicas that do not hear the call do not report: nobody waits for them. */
    const callWaitMs = reporting.canCall ? graceMs : 0

    async function takeNow(): Promise<SnapshotOutcome> {
      for (;;) {
        const until = await reporting.call()
        let end: 'taken' | 'released' = 'released'
        try {
          const outcome = await take('manual', until, callWaitMs)
          if (outcome.result === 'taken') end = 'taken'
          if (outcome.result !== 'overtaken') return outcome
        } finally {
          await reporting.end(end, until)
        }
      }
    }

    async function takeScheduled(boundary: number): Promise<SnapshotOutcome> {
      await reporting.report(boundary)
      const outcome = await take('schedule', boundary, Math.min(graceMs, reporting.scheduledGraceMs))
      if (outcome.result === 'taken') await reporting.end('taken', boundary)
      if (outcome.result === 'not_due') reporting.release('taken', boundary)
      if (outcome.result === 'early') reporting.release('released', boundary)
      return outcome
    }

    /** Each preview makes all replicas flush. */
    const previews = new Coalescer(timing.previewMs, async () => {
      const until = await reporting.call()
      try {
        const { late } = await database.run((db) => waitForReports(db, until, callWaitMs), {
          lane: 'request',
          deadlineMs: timing.databaseDeadlineMs + callWaitMs,
        })
        return await database.run(
          (db) => previewSnapshot(db, { reportedBy: replicaId, until, late, silenceMs: timing.silenceMs }),
          { lane: 'request' },
        )
      } finally {
        await reporting.end('released', until)
      }
    })

    /**
     * Merges snapshots that are not in their day yet, of a version without days, and removes old rows: every replica at
     * start, and then the one that took a snapshot.
     */
    async function keepHistory(): Promise<void> {
      const days = config.SNAPSHOT_RETENTION_DAYS
      while (!shutdown.signal.aborted) {
        try {
          while (!shutdown.signal.aborted && (await mergeStep()));
          while (!shutdown.signal.aborted && (await database.run((db) => pruneSnapshots(db, days))));
          while (!shutdown.signal.aborted && (await database.run(pruneReplicas)));
        } catch (err) {
          if (database.up)
            app.log.error(
              { err },
              'merging days or pruning failed: it will be retried after the next snapshot',
            )
        }
        await historyGrew.wait(LONGEST_WAIT_MS, { signal: shutdown.signal, ref: false })
      }
    }
    database.prepared.then(keepHistory, () => {}) // reported by database.prepared

    /** A step of the merge, and then a pause as long, in which replicas find the database free; false if it was the last. */
    async function mergeStep(): Promise<boolean> {
      const start = performance.now()
      const merged = await database.run((db) => mergeIntoDays(db))
      if (merged === 0) return false
      await pause(performance.now() - start, { signal: shutdown.signal, ref: false })
      return true
    }

    /** Every replica does this: they skip the rows that another one is removing. */
    async function forgetSessions(): Promise<void> {
      const days = config.SESSION_RETENTION_DAYS
      while (!shutdown.signal.aborted) {
        await pause(timing.sessionRetentionMs, { signal: shutdown.signal, ref: false })
        try {
          while (!shutdown.signal.aborted && (await database.run((db) => pruneSessions(db, days))));
        } catch (err) {
          if (database.up) app.log.error({ err }, 'old sessions were not removed: the next attempt follows')
        }
      }
    }
    database.prepared.then(forgetSessions, () => {}) // reported by database.prepared

    app.decorate('snapshots', {
      preview: () => previews.run(),
      take: () => measured('manual', takeNow),
      onTaken: (listener) => void listeners.push(listener),
      async find(id) {
        const snapshot = await database.run((db) => findSnapshot(db, id), { lane: 'request' })
        if (!snapshot) throw new NotFound('no snapshot with this id: GET /telemetry/snapshots lists them')
        return snapshot
      },
    })

    if (config.SNAPSHOT_INTERVAL_MS === 0) return
    const failures = outageLog(
      app.log,
      'error',
      'scheduled snapshot failed: it will be retried',
      'scheduled snapshots work again',
    )
    const schedule = new Schedule({
      intervalMs: config.SNAPSHOT_INTERVAL_MS,
      now: () => reporting.clock.now(),
      goesFirst: () => reporting.isOldest,
      checkMs: timing.checkMs,
      longestWaitMs: timing.heartbeatMs,
      attempt: async (boundary) => {
        const outcome = await measured('schedule', () => takeScheduled(boundary))
        failures.recovered()
        return outcome
      },
      onError: (err) => {
        if (database.up) failures.failed({ err }) // the database plugin logs an outage of the database
      },
    })
    reporting.onRecorded((until) => schedule.recorded(until))
    reporting.started
      .then(() => schedule.run(shutdown.signal))
      .catch((err) => app.log.fatal({ err }, 'scheduled snapshots have stopped'))
  },
  { name: 'snapshots', dependencies: ['metrics', 'shutdown', 'database', 'counting', 'reporting'] },
)
