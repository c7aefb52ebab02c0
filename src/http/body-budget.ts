// Bounds the memory of all request bodies that are being read: it lies outside of the heap, and clients may send slowly.

import type { IncomingHttpHeaders } from 'node:http'
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

/** The encodings that were applied to the body, in order; identity is none. */
export function contentEncodings({ 'content-encoding': header }: IncomingHttpHeaders): string[] {
  if (header === undefined) return []
  const listed = header.split(',').map((encoding) => encoding.trim().toLowerCase())
  return listed.filter((encoding) => encoding !== '' && encoding !== 'identity')
}

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const budget = MAX_LARGEST_BODIES * config.BODY_LIMIT_BYTES
    let reserved = 0
    app.decorateRequest('reserved', 0)
    app.decorate('reserveBody', (request, _reply, done) => {
      const length = request.headers['content-length']
      const isKnown = length !== undefined && contentEncodings(request.headers).length === 0
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
