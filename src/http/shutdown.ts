// The shutdown: rejects new requests, disconnects clients that do not finish, and tells how much time is left.

import { setTimeout as sleep } from 'node:timers/promises'
import fp from 'fastify-plugin'
import type { Config } from '../config.js'
import { ShuttingDown } from './errors.js'

/** The part of the timeout that is reserved for closing connections and logging. */
const RESERVE_MS = 250
const SWEEP_MS = 50

declare module 'fastify' {
  interface FastifyInstance {
    shutdown: {
      /** Makes this replica not ready, and resolves after SHUTDOWN_DELAY_MS; until then it serves. */
      delay(): Promise<void>
      /** Whether the replica is about to shut down. */
      readonly isComing: boolean
      /** Aborted when the shutdown begins. Background tasks end then. */
      readonly signal: AbortSignal
      /** The time left until the process must exit, in milliseconds. */
      remainingMs(): number
    }
  }
}

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const controller = new AbortController()
    let deadline = Number.POSITIVE_INFINITY

    let isComing = false
    app.decorate('shutdown', {
      async delay() {
        isComing = true
        await sleep(config.SHUTDOWN_DELAY_MS)
      },
      get isComing() {
        return isComing
      },
      signal: controller.signal,
      remainingMs: () => Math.max(1, deadline - performance.now()),
    })

    app.addHook('onRequest', (_request, reply, done) => {
      if (!controller.signal.aborted) return done()
      reply.header('connection', 'close')
      throw new ShuttingDown()
    })

    let disconnect: NodeJS.Timeout | undefined
    let sweep: NodeJS.Timeout | undefined
    app.addHook('preClose', async () => {
      deadline = performance.now() + config.SHUTDOWN_TIMEOUT_MS - RESERVE_MS
      controller.abort()
      // Fastify closes idle connections once. Those that become idle later would otherwise stay open.
      sweep = setInterval(() => app.server.closeIdleConnections(), SWEEP_MS)
      // Requests in progress get half of the time; the final flush needs the rest.
      disconnect = setTimeout(() => app.server.closeAllConnections(), config.SHUTDOWN_TIMEOUT_MS / 2)
    })
    app.addHook('onClose', async () => {
      clearTimeout(disconnect)
      clearInterval(sweep)
    })
  },
  { name: 'shutdown' },
)
