// Bounds what connections cost: beyond the limit, each new one closes another, first those that presented no credential;
// requests with many headers are rejected; and clients are disconnected if they send many requests without waiting for
// responses, or do not end a chunked body before its response.

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { getHeapStatistics } from 'node:v8'
import fp from 'fastify-plugin'
import { HeadersTooLarge } from './errors.js'
import { Rounds } from './rounds.js'

const MAX_CONNECTIONS = 10_000
/** What a connection costs while its request is received, on the heap. */
const BYTES_PER_CONNECTION = 16_384
/** On the heap, 16 KiB of headers of a few bytes each take three times as much. */
const MAX_HEADERS = 200
/** The share of the heap that connections may take. */
const HEAP_SHARE = 0.5
/** The share of the connections that clients without a credential find: probes, and all that have just connected. */
const NEW_SHARE = 0.125
/**
 * How many requests of a connection may wait for the response to an earlier one. Node.js handles all that it has read at
 * once, which can be two thousand.
 */
const MAX_PIPELINED = 32

declare module 'fastify' {
  interface FastifyInstance {
    /** Records that the client on this connection has presented a valid credential. */
    identifyConnection(socket: Socket): void
  }
}

export interface ConnectionLimits {
  maxConnections?: number
}

export default fp<ConnectionLimits>(
  async (app, limits) => {
    const affordable = Math.floor((HEAP_SHARE * getHeapStatistics().heap_size_limit) / BYTES_PER_CONNECTION)
    const { maxConnections = Math.min(MAX_CONNECTIONS, affordable) } = limits

    app.server.maxHeadersCount = MAX_HEADERS

    /** Each in order: what has been unused for longest is first. */
    const connections = { none: new Set<Socket>(), valid: new Set<Socket>() }
    const closed = app.metrics.counter(
      'boundary_usage_connections_closed_total',
      'Connections closed to make room for others, by the credential that their client had presented.',
      'credential',
      ['none', 'valid'],
    )
    app.metrics.gauges(
      'boundary_usage_connections',
      'Open connections, by the credential that their client has presented.',
      'credential',
      () => ({ none: connections.none.size, valid: connections.valid.size }),
    )

    app.server.on('connection', (socket: Socket) => {
      connections.none.add(socket)
      socket.once('close', () => {
        connections.none.delete(socket)
        connections.valid.delete(socket)
      })
      if (connections.none.size + connections.valid.size > maxConnections) makeRoom()
    })

    function makeRoom(): void {
      const credential = connections.none.size > Math.max(1, NEW_SHARE * maxConnections) ? 'none' : 'valid'
      for (const socket of connections[credential]) {
        connections[credential].delete(socket)
        socket.destroy()
        closed[credential]++
        return
      }
    }

    const rounds = new Rounds()

    // One hook for all checks, because each hook costs more than a check.
    app.addHook('onRequest', (request, reply, done) => {
      const { raw } = request
      rounds.observe(request)
      // Node.js drops headers beyond the maximum: one of them could be the credential, or a second Host.
      if (raw.rawHeaders.length >= 2 * MAX_HEADERS) return done(new HeadersTooLarge())
      // Node.js has given the connection to a response that waits for no other.
      if (reply.raw.socket === null && !mayWait(raw.socket, reply.raw)) return void raw.socket.destroy()
      if (raw.headers['transfer-encoding'] !== undefined) holdBack(raw, reply.raw)
      done()
    })

    /** How many requests wait for earlier responses. */
    const pipelined = new WeakMap<Socket, number>()
    function mayWait(socket: Socket, response: ServerResponse): boolean {
      const waiting = (pipelined.get(socket) ?? 0) + 1
      if (waiting > MAX_PIPELINED) return false
      pipelined.set(socket, waiting)
      response.once('close', () => pipelined.set(socket, (pipelined.get(socket) ?? 1) - 1))
      return true
    }

    /**
     * A chunk of one byte costs as much as 250 bytes of JSON, and Node.js reads up to 2 MiB of a connection at once: a body
     * in chunks is read only where a route asks for it, and no further once there is a response.
     */
    function holdBack(request: IncomingMessage, response: ServerResponse): void {
      request.socket.pause()
      response.once('finish', () => (request.complete ? request.socket.resume() : request.socket.destroy()))
    }
    app.addHook('onSend', ({ raw, headers }, reply, payload, done) => {
      if (!raw.complete && headers['transfer-encoding'] !== undefined) reply.header('connection', 'close')
      done(null, payload)
    })

    app.decorate('identifyConnection', (socket) => {
      if (connections.none.delete(socket)) connections.valid.add(socket)
      // The order matters only when connections are about to be closed.
      else if (connections.valid.size > maxConnections / 2 && connections.valid.delete(socket))
        connections.valid.add(socket)
    })
  },
  { name: 'connections', dependencies: ['metrics'] },
)
