// GET /telemetry/status.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { TimeoutError, timeout } from '../async.js'
import type { Config } from '../config.js'
import { TemporaryDatabaseError } from '../database/client.js'
import { ADMIN_ROUTE, restrictToAdmins } from '../http/admin.js'
import { ref, responses } from '../http/schemas.js'
import { evaluate, type Reading } from './checks.js'
import { readFigures } from './figures.js'
import { StatusSchema } from './schemas.js'

/** Whoever asks whether something is wrong cannot wait as long as a flush. */
const DEADLINE_MS = 5_000

export const status: FastifyPluginAsyncTypebox<{ config: Config }> = async (app, { config }) => {
  const { counting, database, delivery, readiness } = app
  restrictToAdmins(app)

  app.get(
    '/telemetry/status',
    {
      schema: {
        ...ADMIN_ROUTE,
        operationId: 'getStatus',
        summary: 'Check whether anything needs attention',
        description:
          'The checks `flushes` and `replicas` include the state of the replica that responds. The response is 200 even ' +
          'while the database is unavailable: what cannot be checked then is not ok.',
        response: responses(200, ref(StatusSchema), 'The result of every check.', 401, 403, 503),
      },
    },
    async () => {
      const reading = await read()
      const { allowed, denied } = counting.tracker.unflushed
      return evaluate(
        {
          name: counting.replica.name,
          notReady: readiness.reasons(),
          unflushedRequests: allowed + denied,
          unflushedAgeMs: counting.tracker.unflushedAge,
          flushIntervalMs: config.FLUSH_INTERVAL_MS,
          hasSink: delivery.isOn,
        },
        reading,
      )
    },
  )

  /** Gives up earlier than the pool does, so that the pool is not replaced only because it is busy. */
  async function read(): Promise<Reading> {
    const start = performance.now()
    try {
      const figures = await timeout(DEADLINE_MS, () => database.run(readFigures, { lane: 'request' }))
      return { figures, ms: performance.now() - start }
    } catch (error) {
      if (error instanceof TimeoutError) return { error: `the database gave ${error.message}` }
      if (error instanceof TemporaryDatabaseError) return { error: error.message }
      throw error
    }
  }
}
