// Delivers snapshots to the sink: the loop that attempts what is due. Without SINK_URL nothing leaves the machine.

import fp from 'fastify-plugin'
import { Waker } from '../async.js'
import type { Config } from '../config.js'
import { outageLog } from '../log.js'
import type { RecordedSnapshot } from '../snapshots/history.js'
import {
  type Claim,
  claimDelivery,
  type DeliveryResult,
  pendingDeliveries,
  recordDelivery,
  redeliver,
} from './queue.js'
import { type AttemptOutcome, attemptDelivery, type Sink } from './sink.js'

/** The longest time between two looks for what other replicas have left pending. */
const POLL_MS = 30_000

declare module 'fastify' {
  interface FastifyInstance {
    delivery: {
      /** Whether there is a sink. */
      readonly isOn: boolean
      /** Attempts now what is due. */
      wake(): void
      /** Makes the snapshot due, attempts it, and resolves with it as it was before that; rejects with NotFound. */
      redeliver(id: string): Promise<RecordedSnapshot>
    }
  }
}

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const { metrics, database, shutdown, snapshots } = app
    const { SINK_URL: url, SINK_SECRET: secrets } = config
    const sink = url === undefined ? undefined : { url, secrets }
    const waker = new Waker()
    let pending = 0

    app.decorate('delivery', {
      isOn: sink !== undefined,
      wake: () => waker.wake(),
      async redeliver(id) {
        await database.run((db) => redeliver(db, id), { lane: 'request' })
        const snapshot = await snapshots.find(id)
        waker.wake()
        return snapshot
      },
    })
    metrics.gauge(
      'boundary_usage_deliveries_pending',
      'Snapshots with a pending delivery, when this replica last looked.',
      () => pending,
    )
    if (!sink) return

    const attempts = outageLog(
      app.log,
      'warn',
      'delivery failed: it will be retried',
      'deliveries work again',
    )
    const statements = outageLog(
      app.log,
      'error',
      'cannot read or record deliveries: it will be retried',
      'deliveries can be read and recorded again',
    )
    snapshots.onTaken(() => waker.wake())
    // The rejection of database.prepared is reported where the process starts.
    database.prepared.then(() => run(sink, shutdown.signal)).catch(() => {})

    async function run(sink: Sink, signal: AbortSignal): Promise<void> {
      while (!signal.aborted) {
        let waitMs = POLL_MS
        try {
          await deliverAllDue(sink, signal)
          const { count, nextMs } = await database.run(pendingDeliveries)
          pending = count
          statements.recovered()
          if (nextMs !== null) waitMs = Math.min(waitMs, Math.max(0, nextMs))
        } catch (err) {
          // The database plugin logs an outage of the database.
          if (database.up) statements.failed({ err })
        }
        await waker.wait(Math.ceil(waitMs * (1 + Math.random() / 10)), { signal, ref: false })
      }
    }

    async function deliverAllDue(sink: Sink, signal: AbortSignal): Promise<void> {
      while (!signal.aborted) {
        const claim = await database.run(claimDelivery)
        if (!claim) return
        const outcome = await attemptDelivery(sink, claim.snapshot, signal)
        // The shutdown aborted it: another replica attempts it when the lease ends.
        if (signal.aborted && outcome.result === 'failed') return
        const result = await database.run((db) => recordDelivery(db, claim, outcome))
        metrics.deliveries[result]++
        report(claim, outcome, result)
      }
    }

    function report({ snapshot, attempt }: Claim, outcome: AttemptOutcome, result: DeliveryResult): void {
      if (outcome.result === 'delivered') {
        attempts.recovered()
        return
      }
      const fields = { snapshot_id: snapshot.id, attempt, error: outcome.error }
      if (result === 'dead') app.log.error(fields, 'delivery given up')
      else attempts.failed(fields)
    }
  },
  { name: 'delivery', dependencies: ['metrics', 'shutdown', 'database', 'snapshots'] },
)
