// --tee: another socket receives every frame as it was, and never delays anything.

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { boundaryLogs, connectBoundary, envelopeFrame, frameOf, plainFrame } from '../helpers/boundary.js'
import { scratch, startForwarder } from '../helpers/forwarder.js'
import { startStub } from '../helpers/stub-service.js'
import { until } from '../helpers/until.js'

interface Agent {
  /** Of each connection, in the order of connecting: what it received. */
  received: Buffer[]
  sockets: Socket[]
  close(): Promise<void>
}

/** The workspace agent's own socket. */
async function startAgent(t: Test, path: string, { reads = true } = {}): Promise<Agent> {
  await rm(path, { force: true })
  const agent: Agent = { received: [], sockets: [], close }
  const server: Server = createServer((socket) => {
    const n = agent.sockets.push(socket) - 1
    agent.received[n] = Buffer.alloc(0)
    socket.on('error', () => {})
    if (reads)
      socket.on('data', (chunk) => {
        agent.received[n] = Buffer.concat([agent.received[n] ?? Buffer.alloc(0), chunk])
      })
    else socket.pause()
  })
  server.listen(path)
  await once(server, 'listening')
  async function close() {
    if (!server.listening) return
    for (const socket of agent.sockets) socket.destroy()
    server.close()
    await once(server, 'close')
  }
  t.teardown(close)
  return agent
}

t.test('each connection has its own, and every frame passes unchanged', async (t) => {
  const stub = await startStub(t)
  const path = join(await scratch(t), 'agent.sock')
  const agent = await startAgent(t, path)
  const forwarder = await startForwarder(t, { urls: [stub.url], args: ['--tee', path] })
  const sent: Buffer[] = []
  for (let n = 0; n < 3; n++) {
    const session_id = randomUUID()
    const frames = [
      envelopeFrame({ session_id, logs: boundaryLogs(10) }, { queueFull: n }),
      frameOf(2, Buffer.alloc(0)),
      plainFrame({ logs: boundaryLogs(2) }),
      frameOf(1, Buffer.from('not protobuf')),
    ]
    const boundary = await connectBoundary(t, forwarder.socket)
    const stream = Buffer.concat(frames)
    for (let at = 0; at < stream.length; at += 100) await boundary.send(stream.subarray(at, at + 100))
    await until(() => agent.received[n]?.length === stream.length, { what: 'all frames' })
    sent.push(stream)
    await boundary.close()
    const socket = agent.sockets[n]
    await until(() => socket?.readableEnded, { what: 'the end of the connection' })
  }
  t.strictSame(agent.received, sent)
  t.match(await forwarder.totals(), { tee_frames_dropped: 0 })
})

t.test('without anybody there frames are dropped; when somebody is back they pass again', async (t) => {
  const stub = await startStub(t)
  const path = join(await scratch(t), 'agent.sock')
  const forwarder = await startForwarder(t, { urls: [stub.url], args: ['--tee', path] })
  const session_id = randomUUID()
  const boundary = await connectBoundary(t, forwarder.socket)
  await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(10) }))
  t.match(await forwarder.log('cannot pass frames on to --tee'), { reason: /ENOENT/ })
  const agent = await startAgent(t, path)
  let first = 10
  const passes = async (to: Agent) => {
    const frame = envelopeFrame({ session_id, logs: boundaryLogs(10, first) })
    first += 10
    await boundary.send(frame)
    return to.received.some((received) => received.length > 0)
  }
  await until(() => passes(agent), { what: 'frames to pass' })
  await agent.close()
  await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(10, first) }))
  first += 10
  const next = await startAgent(t, path)
  await until(() => passes(next), { what: 'frames to pass again' })
  for (const received of [...agent.received, ...next.received])
    t.equal(received[0] ?? 2, 2, 'a connection begins with a frame')
  await until(() => stub.numbersOf(session_id).length === first, { what: 'all logs at the service' })
  const { tee_frames_dropped } = await forwarder.totals()
  t.ok(Number(tee_frames_dropped) >= 1)
})

t.test('one that does not read delays nothing and gets whole frames alone', async (t) => {
  const stub = await startStub(t)
  const path = join(await scratch(t), 'agent.sock')
  const agent = await startAgent(t, path, { reads: false })
  const forwarder = await startForwarder(t, { urls: [stub.url], args: ['--tee', path] })
  const session_id = randomUUID()
  const boundary = await connectBoundary(t, forwarder.socket)
  const size = envelopeFrame({ session_id, logs: boundaryLogs(10, 1000) }).length
  for (let n = 100; n < 1000; n++)
    await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(10, 10 * n) }))
  await until(() => stub.counted.size === 9000, { what: 'all logs at the service' })
  const dropped = Number((await forwarder.totals()).tee_frames_dropped)
  t.ok(dropped > 0)
  t.match(await forwarder.log('--tee is too slow'), { level: 40 })
  let received = 0
  agent.sockets[0]?.on('data', (chunk) => {
    received += chunk.length
  })
  agent.sockets[0]?.resume()
  await until(() => received === (900 - dropped) * size, { what: 'the frames that were not dropped' })
  await forwarder.log('--tee keeps up again')
})

t.test('one that does not read holds no memory with empty frames', async (t) => {
  const stub = await startStub(t)
  const path = join(await scratch(t), 'agent.sock')
  const agent = await startAgent(t, path, { reads: false })
  const forwarder = await startForwarder(t, { urls: [stub.url], args: ['--tee', path] })
  const boundary = await connectBoundary(t, forwarder.socket)
  const empty = frameOf(2, Buffer.alloc(0))
  const count = 20_000
  for (let n = 0; n < count; n += 1000) await boundary.send(Buffer.concat(Array(1000).fill(empty)))
  await until(async () => (await forwarder.totals()).frames === count, { what: 'all frames' })
  const dropped = Number((await forwarder.totals()).tee_frames_dropped)
  t.ok(dropped > count - 3000, `${count - dropped} frames wait, or are with the kernel`)
  let received = 0
  agent.sockets[0]?.on('data', (chunk) => {
    received += chunk.length
  })
  agent.sockets[0]?.resume()
  await until(() => received === (count - dropped) * empty.length, {
    what: 'the frames that were not dropped',
  })
  await boundary.send(empty)
  await until(() => received === (count - dropped + 1) * empty.length, { what: 'a frame after them' })
})
