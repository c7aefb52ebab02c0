// A forwarder between a boundary and the service: what is read is counted once.

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { lstat, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { boundaryLogs, connectBoundary, envelopeFrame, frameOf, plainFrame } from '../helpers/boundary.js'
import { runForward, scratch, startForwarder } from '../helpers/forwarder.js'
import { startStub } from '../helpers/stub-service.js'
import { until } from '../helpers/until.js'

t.jobs = 2

const range = (count: number, first = 0) => Array.from({ length: count }, (_, n) => first + n)

t.test('logs of both kinds of frames are counted once, under their own session and numbers', async (t) => {
  const stub = await startStub(t)
  const forwarder = await startForwarder(t, { urls: [stub.url] })
  const boundary = await connectBoundary(t, forwarder.socket)
  const sessions = [randomUUID(), randomUUID()] as const
  await boundary.send(
    envelopeFrame({ session_id: sessions[0], logs: boundaryLogs(10) }),
    frameOf(2, Buffer.alloc(0)),
    envelopeFrame(undefined, { queueFull: 2, batchFull: 1 }),
    plainFrame({ session_id: sessions[1].toUpperCase(), logs: boundaryLogs(3, 40) }),
    envelopeFrame({ session_id: sessions[0], logs: boundaryLogs(5, 10) }, { queueFull: 4 }),
  )
  await until(() => stub.counted.size === 18, { what: 'all logs' })
  t.strictSame(stub.numbersOf(sessions[0]), range(15))
  t.strictSame(stub.numbersOf(sessions[1]), range(3, 40))
  t.strictSame(
    stub.batches.map(({ workspaceId, ownerId }) => ({ workspaceId, ownerId })),
    stub.batches.map(() => ({ workspaceId: forwarder.workspaceId, ownerId: forwarder.ownerId })),
  )
  t.equal(stub.batches.length, 2, 'logs of a session go together')
  const totals = await forwarder.totals()
  t.match(totals, {
    frames: 5,
    logs_read: 18,
    logs_sent: 18,
    logs_waiting: 0,
    boundary_dropped_queue_full: 6,
    boundary_dropped_batch_full: 1,
  })
  t.strictSame(await forwarder.end(), { code: 0, signal: null })
  t.equal(stub.duplicates, 0)
})

t.test(
  'logs without session or with one that is no UUID get a session for each connection, and numbers',
  async (t) => {
    const stub = await startStub(t)
    const forwarder = await startForwarder(t, { urls: [stub.url] })
    const logs = boundaryLogs(10, 500).map(({ sequence_number: _, ...log }) => log)
    for (const session_id of [undefined, 'not-a-uuid']) {
      const boundary = await connectBoundary(t, forwarder.socket)
      for (let n = 0; n < 3; n++) await boundary.send(plainFrame({ ...(session_id && { session_id }), logs }))
    }
    await until(() => stub.counted.size === 60, { what: 'all logs' })
    const sessions = [...new Set(stub.batches.map(({ sessionId }) => sessionId))]
    t.equal(sessions.length, 2)
    for (const session of sessions) t.strictSame(stub.numbersOf(session), range(30))
  },
)

t.test(
  'a connection that sends garbage ends alone; an unreadable message costs its frame alone',
  async (t) => {
    const stub = await startStub(t)
    const forwarder = await startForwarder(t, { urls: [stub.url] })
    const session_id = randomUUID()
    const good = await connectBoundary(t, forwarder.socket)
    const bad = await connectBoundary(t, forwarder.socket)
    const closed = once(bad.socket, 'close')
    await bad.send(envelopeFrame({ session_id, logs: boundaryLogs(2) }), Buffer.from('garbage'))
    await closed
    await good.send(
      envelopeFrame({ session_id, logs: boundaryLogs(2, 2) }),
      frameOf(1, Buffer.from('0aff', 'hex')),
      envelopeFrame({ session_id, logs: boundaryLogs(2, 4) }),
    )
    await until(() => stub.counted.size === 6, { what: 'the logs around' })
    t.match(await forwarder.totals(), { frames_unreadable: 1, connections_cut: 1 })
  },
)

t.test('it takes 256 connections, closes the next, and takes others when some have gone', async (t) => {
  const stub = await startStub(t)
  const forwarder = await startForwarder(t, { urls: [stub.url] })
  const session_id = randomUUID()
  const boundaries = []
  for (let n = 0; n < 256; n++) boundaries.push(await connectBoundary(t, forwarder.socket))
  await until(async () => (await forwarder.totals()).connections === 256, { what: '256 connections' })
  const next = connect(forwarder.socket)
  await once(next, 'close')
  for (const [n, boundary] of boundaries.entries())
    await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(4, 4 * n) }))
  await until(() => stub.counted.size === 1024, { what: 'the logs of all connections' })
  t.ok(stub.batches.every(({ numbers }) => numbers.length <= 1000))
  await boundaries[0]?.close()
  await until(async () => (await forwarder.totals()).connections === 255, { what: 'one to go' })
  const another = await connectBoundary(t, forwarder.socket)
  await another.send(envelopeFrame({ session_id, logs: boundaryLogs(1, 5000) }))
  await until(() => stub.counted.size === 1025, { what: 'the log of another connection' })
  t.match(await forwarder.totals(), { connections_refused: 1 })
})

t.test('batches are cut at 1,000 logs, at 512 KiB and at a repeated number', async (t) => {
  const stub = await startStub(t)
  const forwarder = await startForwarder(t, { urls: [stub.url] })
  const [many, large, repeated] = [randomUUID(), randomUUID(), randomUUID()]
  const boundary = await connectBoundary(t, forwarder.socket)
  for (let n = 0; n < 250; n++)
    await boundary.send(envelopeFrame({ session_id: many, logs: boundaryLogs(10, 10 * n) }))
  const long = `https://example.com/${'x'.repeat(3000)}`
  for (let n = 0; n < 30; n++)
    await boundary.send(envelopeFrame({ session_id: large, logs: boundaryLogs(10, 10 * n, long) }))
  await boundary.send(
    envelopeFrame({ session_id: repeated, logs: [...boundaryLogs(5), ...boundaryLogs(5)] }),
    envelopeFrame({ session_id: repeated, logs: boundaryLogs(3, 3) }),
  )
  await until(() => stub.counted.size === 2500 + 300 + 6 && stub.duplicates === 7, { what: 'all logs' })
  t.ok(stub.batches.every(({ numbers, bytes }) => numbers.length <= 1000 && bytes <= 512 * 1024))
  t.ok(stub.batches.some(({ bytes }) => bytes > 400 * 1024))
  t.ok(stub.batches.some(({ numbers }) => numbers.length === 1000))
  t.match(await forwarder.totals(), { logs_refused: 0, logs_waiting: 0 })
  // One message of 2^15 bytes is full of logs that have nothing in them.
  const empty = Buffer.alloc(2 ** 15)
  for (let at = 0; at < empty.length; at += 2) empty[at] = 0x0a
  await boundary.send(frameOf(1, empty))
  await until(() => stub.counted.size === 2806 + 2 ** 14, { what: 'empty logs' })
})

t.test('the socket has the mode asked for, stays at exit, and is replaced without a gap', async (t) => {
  const stub = await startStub(t)
  const directory = await scratch(t)
  const socket = join(directory, 'boundary.sock')
  const first = await startForwarder(t, { urls: [stub.url], socket })
  t.equal((await stat(socket)).mode & 0o777, 0o666)
  t.strictSame(await first.end(), { code: 0, signal: null })
  t.ok((await lstat(socket)).isSocket())
  const { ino } = await stat(socket)
  const second = await startForwarder(t, { urls: [stub.url], socket, args: ['--socket-mode', '0600'] })
  t.equal((await stat(socket)).mode & 0o777, 0o600)
  t.not((await stat(socket)).ino, ino)
  await rm(socket)
  await second.log('the socket was removed')
  const boundary = await connectBoundary(t, socket)
  await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(1) }))
  await until(() => stub.counted.size === 1, { what: 'a log through the socket that was created again' })
})

t.test('socket and spool belong to one forwarder each; a second one says so and ends with 1', async (t) => {
  const stub = await startStub(t)
  const [one, two] = [await scratch(t), await scratch(t)]
  const first = await startForwarder(t, {
    urls: [stub.url],
    socket: join(one, 's'),
    args: ['--spool', join(one, 'spool')],
  })
  const ids = ['--workspace-id', randomUUID(), '--owner-id', randomUUID(), '--url', stub.url]
  t.strictSame(await runForward(t, [...ids, '--socket', first.socket]), {
    code: 1,
    stdout: '',
    stderr: `boundary-usage forward: --socket: ${first.socket} is in use by another forwarder: stop that one, or use another path\n`,
  })
  t.strictSame(await runForward(t, [...ids, '--socket', join(two, 's'), '--spool', join(one, 'spool')]), {
    code: 1,
    stdout: '',
    stderr: `boundary-usage forward: --spool: ${one}/spool is in use by another forwarder: stop that one, or use another directory\n`,
  })
  const boundary = await connectBoundary(t, first.socket)
  await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(1) }))
  await until(() => stub.counted.size === 1, { what: 'the first one, which goes on' })
})

t.test('what is in the place of the socket or the spool and is neither is left alone', async (t) => {
  const directory = await scratch(t)
  const ids = ['--workspace-id', randomUUID(), '--owner-id', randomUUID(), '--url', 'http://127.0.0.1:1']
  const file = join(directory, 'file')
  await writeFile(file, 'precious')
  t.match(await runForward(t, [...ids, '--socket', file]), { code: 1, stderr: /exists and is no socket/ })
  const link = join(directory, 'link')
  await symlink(await scratch(t), link)
  t.match(await runForward(t, [...ids, '--socket', join(directory, 's'), '--spool', link]), {
    code: 2,
    stderr: /is a link or no directory/,
  })
  t.match(await runForward(t, [...ids, '--socket', join(directory, 'no', 's')]), {
    code: 1,
    stderr: /ENOENT/,
  })
})

t.test('SIGTERM reads what the kernel holds, sends it, and ends with 0', async (t) => {
  const stub = await startStub(t)
  const forwarder = await startForwarder(t, { urls: [stub.url] })
  const session_id = randomUUID()
  const boundary = await connectBoundary(t, forwarder.socket)
  await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(10) }))
  await until(async () => (await forwarder.totals()).logs_read === 10, { what: 'the first frame to be read' })
  process.kill(forwarder.pid, 'SIGSTOP')
  for (let n = 1; n < 40; n++)
    await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(10, 10 * n) }))
  forwarder.signal('SIGTERM')
  forwarder.signal('SIGINT')
  process.kill(forwarder.pid, 'SIGCONT')
  t.strictSame(await forwarder.exited, { code: 0, signal: null })
  t.strictSame(stub.numbersOf(session_id), range(400))
  t.match(await forwarder.log('stopped'), { logs_kept_in_spool: 0, logs_lost: 0 })
})

t.test('without a spool, what cannot be sent at the end is reported as lost', async (t) => {
  const forwarder = await startForwarder(t, { urls: ['http://127.0.0.1:1'] })
  const boundary = await connectBoundary(t, forwarder.socket)
  await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(10) }))
  t.strictSame(await forwarder.end(), { code: 0, signal: null })
  t.match(await forwarder.log('stopped'), { logs_kept_in_spool: 0, logs_lost: 10 })
})
