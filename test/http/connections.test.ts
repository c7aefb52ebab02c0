// Connections: probes and clients with a credential find room, however many connections without one are open.

import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import connections from '../../src/http/connections.js'
import methods from '../../src/http/methods.js'
import metrics from '../../src/http/metrics.js'
import { testDatabase } from '../helpers/database.js'
import { exchange, head } from '../helpers/raw.js'
import { batch, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

async function openSockets(t: Test, url: string, count: number): Promise<Socket[]> {
  const sockets = Array.from({ length: count }, () => connect(Number(new URL(url).port), '127.0.0.1'))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
  })
  for (const socket of sockets) socket.on('error', () => {}) // close follows
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  return sockets
}

/** A server with a limit of connections, and a route that takes each request as one with a valid credential. */
async function startLimited(t: Test, maxConnections: number) {
  const app = Fastify()
  await app.register(methods, { maxParamLength: 100 })
  await app.register(metrics)
  await app.register(connections, { maxConnections })
  app.get('/identified', (request, reply) => {
    app.identifyConnection(request.raw.socket)
    reply.send('known')
  })
  t.teardown(() => app.close())
  return { app, url: await app.listen({ host: '127.0.0.1', port: 0 }) }
}

t.test('beyond the limit, connections without a credential close first, and then those unused', async (t) => {
  const { app, url } = await startLimited(t, 18)

  const use = async (socket: Socket) => {
    socket.write('GET /identified HTTP/1.1\r\nhost: localhost\r\n\r\n')
    await once(socket, 'data')
  }
  const known = await openSockets(t, url, 12)
  for (const socket of known) await use(socket)
  const isOpen = (socket: Socket) => !socket.closed && !socket.destroyed
  const unknown = await openSockets(t, url, 6)
  t.ok([...known, ...unknown].every(isOpen), 'up to there, none is closed')

  const more = await openSockets(t, url, 50)
  await until(() => [...unknown, ...more].filter(isOpen).length === 6, { what: 'all but six to be closed' })
  t.ok(known.every(isOpen), 'a credential keeps a connection open')
  t.ok(more.slice(-6).every(isOpen), 'the newest find room')

  const [first, second, ...others] = known
  if (!first || !second) throw new Error('no sockets')
  await use(first)
  const busy = await openSockets(t, url, 6)
  for (const socket of busy) await use(socket)
  const [late] = await openSockets(t, url, 1)
  if (late) await use(late)
  await openSockets(t, url, 1)
  await until(() => !isOpen(second), { what: 'the one that was unused for longest to be closed' })
  t.ok([first, ...others.slice(2)].every(isOpen))
  const exported = await app.metrics.registry.metrics()
  t.match(exported, /^boundary_usage_connections_closed_total\{credential="valid"\} [12]$/m)
  t.match(exported, /^boundary_usage_connections\{credential="none"\} 1$/m)
})

t.test('clients without a credential find room, however many connections have one', async (t) => {
  const { url } = await startLimited(t, 16)
  for (const socket of await openSockets(t, url, 16)) {
    socket.write('GET /identified HTTP/1.1\r\nhost: localhost\r\n\r\n')
    await once(socket, 'data')
  }
  const [first, second] = await openSockets(t, url, 2)
  for (const socket of [first, second]) {
    socket?.write('GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n')
    if (socket) t.match(String((await once(socket, 'data'))[0]), /^HTTP\/1.1 404/)
  }
})

t.test('after the response, the rest of a body in chunks is not read', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, {
    AGENT_TOKENS: 'agent-token-agent-token-1',
    ADMIN_TOKENS: 'admin-token-admin-token-1',
  })
  for (const [start, status] of [
    ['POST /boundary/logs', 401],
    ['POST /nowhere', 404],
    ['GET /-/healthy', 200],
    ['GET /metrics', 200],
  ] as const) {
    const unread = `${start} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n`
    const answer = await exchange(replica.url, `${unread}1\r\n \r\n`)
    t.match(answer, new RegExp(`^HTTP/1.1 ${status} [^]*\r\nconnection: close\r\n`, 'i'), start)
  }
  const [socket] = await openSockets(t, replica.url, 1)
  const body = JSON.stringify(batch())
  const request = `${head(0, { authorization: 'Bearer agent-token-agent-token-1' })}${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`
  for (let n = 0; socket && n < 3; n++) {
    socket.write(request.replace('content-length: 0', 'transfer-encoding: chunked'))
    t.match(
      String((await once(socket, 'data'))[0]),
      /^HTTP\/1.1 202 /,
      'one that was read leaves the connection open',
    )
  }
})

t.test('a client that does not read its response is disconnected', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, { REQUEST_TIMEOUT_MS: '100' }, { silentConnectionMs: 300 })
  const [socket] = await openSockets(t, replica.url, 1)
  if (!socket) throw new Error('no socket')
  socket.pause()
  const requests = 'GET /page/uplot.js HTTP/1.1\r\nhost: localhost\r\n\r\n'.repeat(400)
  socket.write(requests)
  const open = () =>
    new Promise<number>((resolve) => replica.app.server.getConnections((_, count) => resolve(count)))
  t.equal(await open(), 1)
  await until(async () => (await open()) === 0, { what: 'the connection to be closed' })
})
