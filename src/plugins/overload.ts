// Refuses requests while this replica has more to do than it can: before memory or delay runs away.

import { getHeapStatistics } from 'node:v8'
import underPressure from '@fastify/under-pressure'
import fp from 'fastify-plugin'
import type { Config } from '../config.js'
import { Overloaded } from '../errors.js'

const MAX_EVENT_LOOP_DELAY_MS = 1_000
const SAMPLE_MS = 500
const MAX_HEAP_SHARE = 0.9
/** What all bodies that are being read may hold together, as a multiple of the largest one. */
const MAX_LARGEST_BODIES = 64

/** For the scope it is registered in; elsewhere probes, scrapes and admins still get their answers. */
export default fp<{ config: Config }>(
  async (app, { config }) => {
    await app.register(underPressure, {
      maxEventLoopDelay: MAX_EVENT_LOOP_DELAY_MS,
      maxHeapUsedBytes: getHeapStatistics().heap_size_limit * MAX_HEAP_SHARE,
      sampleInterval: SAMPLE_MS,
      retryAfter: 1,
      customError: Overloaded,
    })

    // Bodies lie outside of the heap, and clients may take long to send them.
    const budget = MAX_LARGEST_BODIES * config.BODY_LIMIT_BYTES
    let reserved = 0
    app.decorateRequest('reservedBytes', 0)
    app.addHook('onRequest', (request, reply, done) => {
      const { 'content-length': length, 'content-encoding': encoding } = request.headers
      const isKnown = length !== undefined && encoding === undefined
      const bytes = isKnown ? Math.min(Number(length), config.BODY_LIMIT_BYTES) : config.BODY_LIMIT_BYTES
      if (reserved + bytes > budget) return done(new Overloaded())
      request.reservedBytes = bytes
      reserved += bytes
      reply.raw.once('close', () => release(request)) // if the body never ends
      done()
    })
    app.addHook('preValidation', (request, _reply, done) => {
      release(request)
      done()
    })

    function release(request: { reservedBytes: number }): void {
      reserved -= request.reservedBytes
      request.reservedBytes = 0
    }
  },
  { name: 'overload' },
)

declare module 'fastify' {
  interface FastifyRequest {
    /** What its body may hold while it is being read. */
    reservedBytes: number
  }
}
