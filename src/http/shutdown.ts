// Shutting down: refuses what comes late, cuts off who does not finish, and knows how much time is left.

import fp from 'fastify-plugin'
import type { Config } from '../config.js'
import { ShuttingDown } from './errors.js'

/** Kept from the timeout for closing connections and logging. */
const RESERVE_MS = 250
const SWEEP_MS = 50

declare module 'fastify' {
  interface FastifyInstance {
    shutdown: {
      /** Aborted when the shutdown begins; for what runs in the background. */
      readonly signal: AbortSignal
      /** Milliseconds left for what is still to be done. */
      remainingMs(): number
    }
  }
}

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const controller = new AbortController()
    let deadline = Number.POSITIVE_INFINITY

    app.decorate('shutdown', {
      signal: controller.signal,
      remainingMs: () => Math.max(1, deadline - performance.now()),
    })

    app.addHook('onRequest', (_request, reply, done) => {
      if (!controller.signal.aborted) return done()
      reply.header('connection', 'close')
      throw new ShuttingDown()
    })

    let cutOff: NodeJS.Timeout | undefined
    let sweep: NodeJS.Timeout | undefined
    app.addHook('preClose', async () => {
      deadline = performance.now() + config.SHUTDOWN_TIMEOUT_MS - RESERVE_MS
      controller.abort()
      // A connection whose last request was under way when the shutdown began would otherwise stay open.
      sweep = setInterval(() => app.server.closeIdleConnections(), SWEEP_MS)
      // Half of the time is for requests under way; the flush needs the rest.
      cutOff = setTimeout(() => app.server.closeAllConnections(), config.SHUTDOWN_TIMEOUT_MS / 2)
    })
    app.addHook('onClose', async () => {
      clearTimeout(cutOff)
      clearInterval(sweep)
    })
  },
  { name: 'shutdown' },
)
