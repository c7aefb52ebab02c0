// Refuses requests while this replica has more to do than it can: before memory or delay runs away.

import { getHeapStatistics } from 'node:v8'
import type { onRequestHookHandler } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.js'
import { Overloaded } from './errors.js'

const MAX_EVENT_LOOP_DELAY_MS = 1_000
const MAX_HEAP_SHARE = 0.9
const SAMPLE_MS = 100
/** What all bodies that are being read may hold together, as a multiple of the largest one. */
const MAX_LARGEST_BODIES = 64

declare module 'fastify' {
  interface FastifyInstance {
    /** In this plugin's scope: the hook that gives a request's body room, or refuses it. */
    reserveBody: onRequestHookHandler
    /** In this plugin's scope: gives the room back; for the body's parser to call, once it has been read. */
    releaseBody(request: FastifyRequest): void
  }
  interface FastifyRequest {
    /** What its body may hold while it is being read, in bytes. */
    reserved: number
  }
}

/** For the scope it is registered in; elsewhere probes, scrapes and admins still get their answers. */
export default fp<{ config: Config }>(
  async (app, { config }) => {
    const maxHeapBytes = getHeapStatistics().heap_size_limit * MAX_HEAP_SHARE
    let isOverloaded = false
    let wasLate = false
    let sampledAt = performance.now()
    // One pause, of the machine or the garbage collector, is over when it is noticed; a replica that has more to do
    // than it can is late again and again. The histogram of node:perf_hooks tells nothing of loops that turn that
    // seldom: what comes first after a reset it does not count.
    const sampling = setInterval(() => {
      const now = performance.now()
      const isLate = now - sampledAt - SAMPLE_MS > MAX_EVENT_LOOP_DELAY_MS
      isOverloaded = (isLate && wasLate) || getHeapStatistics().used_heap_size > maxHeapBytes
      wasLate = isLate
      sampledAt = now
    }, SAMPLE_MS).unref()
    app.addHook('onClose', async () => clearInterval(sampling))

    app.addHook('onRequest', (_request, _reply, done) => (isOverloaded ? done(new Overloaded()) : done()))

    // Bodies lie outside of the heap, and clients may take long to send them.
    const budget = MAX_LARGEST_BODIES * config.BODY_LIMIT_BYTES
    let reserved = 0
    app.decorate('reserveBody', (request, _reply, done) => {
      const { 'content-length': length, 'content-encoding': encoding } = request.headers
      const isKnown = length !== undefined && (encoding === undefined || encoding === 'identity')
      const bytes = isKnown ? Math.min(Number(length), config.BODY_LIMIT_BYTES) : config.BODY_LIMIT_BYTES
      if (reserved + bytes > budget) return done(new Overloaded())
      request.reserved = bytes
      reserved += bytes
      done()
    })
    app.decorateRequest('reserved', 0)
    app.decorate('releaseBody', (request) => {
      reserved -= request.reserved
      request.reserved = 0
    })
    // Bodies that are not read to their end: refused, or their connection ended.
    app.addHook('onError', (request, _reply, _error, done) => {
      app.releaseBody(request)
      done()
    })
  },
  { name: 'overload' },
)
