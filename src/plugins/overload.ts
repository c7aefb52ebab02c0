// Refuses requests while this replica has more to do than it can: before memory or delay runs away.

import { getHeapStatistics } from 'node:v8'
import underPressure from '@fastify/under-pressure'
import type { FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.js'
import { Overloaded } from '../errors.js'

const MAX_EVENT_LOOP_DELAY_MS = 1_000
const SAMPLE_MS = 500
const MAX_HEAP_SHARE = 0.9
/** What all bodies that are being read may hold together, as a multiple of the largest one. */
const MAX_LARGEST_BODIES = 64

declare module 'fastify' {
  interface FastifyRequest {
    /** What its body may hold while it is being read, in bytes. */
    reserved: number
  }
}

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
    app.addHook('preParsing', (request, _reply, payload, done) => {
      const { 'content-length': length, 'content-encoding': encoding } = request.headers
      const isKnown = length !== undefined && (encoding === undefined || encoding === 'identity')
      const bytes = isKnown ? Math.min(Number(length), config.BODY_LIMIT_BYTES) : config.BODY_LIMIT_BYTES
      if (reserved + bytes > budget) return done(new Overloaded())
      request.reserved = bytes
      reserved += bytes
      done(null, payload)
    })
    app.decorateRequest('reserved', 0)
    // A body is read to its end, or its reading fails: also when the connection ends.
    app.addHook('preValidation', (request, _reply, done) => {
      release(request)
      done()
    })
    app.addHook('onError', (request, _reply, _error, done) => {
      release(request)
      done()
    })

    function release(request: FastifyRequest): void {
      reserved -= request.reserved
      request.reserved = 0
    }
  },
  { name: 'overload' },
)
