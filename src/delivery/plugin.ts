// Owns the delivery of snapshots to the sink; without SINK_URL there is none, and nothing leaves the machine.

import { EventEmitter, once } from 'node:events'
import fp from 'fastify-plugin'
import type { Config } from '../config.js'
import { outageLog } from '../log.js'
import {
  type Answer,
  attemptDelivery,
  type Claim,
  claimDelivery,
  type DeliveryResult,
  pendingDeliveries,
  recordDelivery,
  type Sink,
} from './queue.js'

/** At the latest every so often a replica looks for what others have left. */
const POLL_MS = 30_000

declare module 'fastify' {
  interface FastifyInstance {
    delivery: {
      /** Whether there is a sink. */
      readonly isOn: boolean
      /** Looks for what is due, now. */
      wake(): void
    }
  }
}

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const { metrics, database, shutdown } = app
    const { SINK_URL: url, SINK_SECRET: secret } = config
    const sink: Sink | undefined = url !== undefined && secret !== undefined ? { url, secret } : undefined
    const events = new EventEmitter()
    let isWanted = false
    let pending = 0

    app.decorate('delivery', {
      isOn: sink !== undefined,
      wake() {
        isWanted = true
        events.emit('wake')
      },
    })
    metrics.gauge(
      'boundary_usage_deliveries_pending',
      'Snapshots that wait for their delivery, when this replica last looked.',
      () => pending,
    )
    if (!sink) return

    const deliveries = outageLog(
      app.log,
      'warn',
      'delivery failed: it will be tried again',
      'deliveries work again',
    )
    const records = outageLog(
      app.log,
      'error',
      'deliveries cannot be read or recorded: it will be tried again',
      'deliveries can be read and recorded again',
    )
    database.prepared.then(() => run(sink, shutdown.signal)).catch(() => {}) // told by database.prepared

    async function run(sink: Sink, signal: AbortSignal): Promise<void> {
      while (!signal.aborted) {
        isWanted = false
        let wait = POLL_MS
        try {
          await deliverAllDue(sink, signal)
          const { count, nextMs } = await database.run(pendingDeliveries)
          pending = count
          records.recovered()
          if (nextMs !== null) wait = Math.min(wait, Math.max(0, nextMs))
        } catch (err) {
          if (database.up) records.failed({ err }) // a lost one is told where it is noticed
        }
        const end = AbortSignal.any([signal, AbortSignal.timeout(Math.ceil(wait * (1 + Math.random() / 10)))])
        if (!isWanted) await once(events, 'wake', { signal: end }).catch(() => {}) // the time is over
      }
    }

    async function deliverAllDue(sink: Sink, signal: AbortSignal): Promise<void> {
      while (!signal.aborted) {
        const claim = await database.run(claimDelivery)
        if (!claim) return
        const answer = await attemptDelivery(sink, claim, signal)
        // Cut off by the shutdown: another replica will try when the claim is over.
        if (signal.aborted && answer.result === 'failed') return
        const result = await database.run((db) => recordDelivery(db, claim, answer))
        metrics.deliveries[result]++
        tell(claim, answer, result)
      }
    }

    function tell({ snapshot, attempt }: Claim, answer: Answer, result: DeliveryResult): void {
      if (answer.result === 'delivered') {
        deliveries.recovered()
        return
      }
      const fields = { snapshot_id: snapshot.id, attempt, error: answer.error }
      if (result === 'dead') app.log.error(fields, 'delivery given up')
      else deliveries.failed(fields)
    }
  },
  { name: 'delivery', dependencies: ['metrics', 'shutdown', 'database'] },
)
