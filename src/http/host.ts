// Rejects requests that are ambiguous about whom they address, and, while no tokens are set, those that a page of another
// site can send: any page that the user visits can reach a loopback address, also under its own name (DNS rebinding).

import type { FastifyRequest, onRequestHookHandler } from 'fastify'
import fp from 'fastify-plugin'
import { type Config, isLoopback, isOpen } from '../config.js'
import { Forbidden, InvalidHttp } from './errors.js'

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const open = isOpen(config)
    const check: onRequestHookHandler = (request, _reply, done) => {
      const hosts = countHosts(request)
      if (hosts > 1) throw new InvalidHttp('it has several Host headers')
      if (hosts === 0 && request.raw.httpVersion !== '1.0') throw new InvalidHttp('it has no Host header')
      if (open) rejectOthers(request)
      done()
    }
    app.addHook('onRequest', check)
    // Other expectations than 100-continue are ignored, as RFC 9110 allows: the 417 of Node.js has no body.
    app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response))
  },
  { name: 'host' },
)

/** Node.js drops all but the first, and another server on the way may use the last (RFC 9112, section 3.2). */
function countHosts({ raw: { rawHeaders } }: FastifyRequest): number {
  let hosts = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]
    if (name?.length === 4 && name.toLowerCase() === 'host') hosts++
  }
  return hosts
}

/** Every browser sends a page's own name as Host, and its origin with all but plain reads, also to plain HTTP names. */
function rejectOthers({ headers: { host, origin } }: FastifyRequest): void {
  if (host === undefined || !isLoopbackHost(host))
    throw new Forbidden(
      'while no tokens are set, the Host header must be localhost or a loopback address: use http://127.0.0.1, or set tokens',
    )
  if (origin !== undefined && origin.replace(/^https?:\/\//, '') !== host)
    throw new Forbidden('requests from pages of other sites are rejected while no tokens are set')
}

/** `host` may have a port, whichever it is: the service may be reached through a forwarded one. */
function isLoopbackHost(host: string): boolean {
  const name = /^(?:\[(.*)\]|([^:]*))(?::\d+)?$/.exec(host)
  return name !== null && isLoopback((name[1] ?? name[2] ?? '').toLowerCase())
}
