// Bounds the memory of all request bodies that are being read: it lies outside of the heap, and clients may send slowly.

import type { onRequestHookHandler } from 'fastify'
import fp from 'fastify-plugin'
import type { Config } from '../config.js'
import { Overloaded } from './errors.js'

/** The budget, as a multiple of the largest body allowed. */
const MAX_LARGEST_BODIES = 64

declare module 'fastify' {
  interface FastifyInstance {
    /** In the scope of this plugin: an onRequest hook that reserves memory for the body, or rejects the request. */
    reserveBody: onRequestHookHandler
    /** In the scope of this plugin: releases what was reserved. The parser of the body must call it. */
    releaseBody(request: FastifyRequest): void
  }
  interface FastifyRequest {
    /** Memory reserved for the body, in bytes. */
    reserved: number
  }
}

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const budget = MAX_LARGEST_BODIES * config.BODY_LIMIT_BYTES
    let reserved = 0
    app.decorateRequest('reserved', 0)
    app.decorate('reserveBody', (request, _reply, done) => {
      const { 'content-length': length, 'content-encoding': encoding } = request.headers
      const isKnown = length !== undefined && (encoding === undefined || encoding === 'identity')
      const bytes = isKnown ? Math.min(Number(length), config.BODY_LIMIT_BYTES) : config.BODY_LIMIT_BYTES
      if (reserved + bytes > budget) return done(new Overloaded())
      request.reserved = bytes
      reserved += bytes
      done()
    })
    app.decorate('releaseBody', (request) => {
      reserved -= request.reserved
      request.reserved = 0
    })
    // A body that is not read to its end never reaches its parser: it was rejected, or the connection closed.
    app.addHook('onError', (request, _reply, _error, done) => {
      app.releaseBody(request)
      done()
    })
  },
  { name: 'body-budget' },
)
