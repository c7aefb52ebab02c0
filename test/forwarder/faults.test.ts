// What the service, or something in front of it, answers; and what happens to the logs then.

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { boundaryLogs, connectBoundary, envelopeFrame } from '../helpers/boundary.js'
import { scratch, startForwarder } from '../helpers/forwarder.js'
import { type Answer, refusal, startStub } from '../helpers/stub-service.js'
import { until } from '../helpers/until.js'

t.jobs = 3

const page = (status: number, headers = {}): Answer => ({
  status,
  headers: { 'content-type': 'text/html', ...headers },
  body: '<h1>a proxy</h1>',
})

t.test('only 202 with the JSON of the service acknowledges; everything else is sent again', async (t) => {
  const answers: [string, Answer][] = [
    ['200 with the right body', { status: 200, body: '{"allowed":10,"denied":0,"skipped":0}' }],
    ['202 from somebody else', { status: 202, body: 'accepted' }],
    ['202 with other JSON', { status: 202, body: '{"ok":true}' }],
    ['204', { status: 204 }],
    ['301', page(301, { location: 'http://127.0.0.1:1/' })],
    ['307', page(307, { location: 'http://127.0.0.1:1/' })],
    ["a proxy's 400", page(400)],
    ["a proxy's 404", page(404)],
    ["the service's 404", refusal(404)],
    ['408', refusal(408)],
    ["a proxy's 413", page(413)],
    ['415', refusal(415)],
    ['429', refusal(429)],
    ['500', refusal(500)],
    ['502', page(502)],
    ['503', refusal(503)],
    ['504', refusal(504)],
    ['a lost response', 'lose'],
    ['a cut connection', 'reset'],
  ]
  await Promise.all(
    answers.map(async ([name, answer]) => {
      const stub = await startStub(t)
      let isFirst = true
      stub.answer = () => {
        const now = isFirst ? answer : undefined
        isFirst = false
        return now
      }
      const forwarder = await startForwarder(t, { urls: [stub.url] })
      const session_id = randomUUID()
      const boundary = await connectBoundary(t, forwarder.socket)
      await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(10) }))
      await until(() => stub.batches.length === 2, { what: `another attempt after ${name}` })
      t.equal(stub.counted.size, 10, name)
      const [first, second] = stub.batches
      t.strictSame(second?.numbers, first?.numbers, name)
      t.ok((second?.at ?? 0) - (first?.at ?? 0) >= 450, `${name}: not at once`)
      await until(async () => (await forwarder.totals()).logs_sent === 10, { what: 'the acknowledgement' })
      t.match(await forwarder.log('the service takes no logs'), { level: 40 })
      t.match(await forwarder.log('the service takes logs again'), { level: 30 })
      t.match(await forwarder.totals(), { logs_refused: 0, logs_waiting: 0 })
      t.equal(forwarder.logs.filter(({ level }) => level >= 40).length, 1, 'one line for the outage')
      await forwarder.kill()
    }),
  )
})

t.test('a log that the service refuses costs its frame alone', async (t) => {
  for (const status of [400, 413]) {
    const stub = await startStub(t)
    stub.answer = ({ urls }) => (urls.some((url) => url.includes('poison')) ? refusal(status) : undefined)
    const forwarder = await startForwarder(t, { urls: [stub.url] })
    const session_id = randomUUID()
    const boundary = await connectBoundary(t, forwarder.socket)
    for (let n = 0; n < 10; n++) {
      const url = n === 3 || n === 7 ? 'https://poison.example/' : undefined
      await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(10, 10 * n, url) }))
    }
    await until(async () => (await forwarder.totals()).logs_refused === 20, { what: 'refused frames' })
    await until(() => stub.counted.size === 80, { what: 'the frames around' })
    const poisoned = stub.batches.filter(({ urls }) => urls.some((url) => url.includes('poison')))
    t.strictSame(
      poisoned.map(({ numbers }) => numbers.length),
      [100, 10, 10],
      'the batch, then each frame once',
    )
    t.equal(forwarder.logs.filter(({ msg }) => msg.includes('refuses logs')).length, 1, 'logged once')
    t.match(await forwarder.totals(), { logs_sent: 80, logs_waiting: 0 })
  }
})

t.test('Retry-After is kept to, in seconds and as a date', async (t) => {
  await Promise.all(
    [() => '3', () => new Date(Date.now() + 4000).toUTCString()].map(async (after) => {
      const stub = await startStub(t)
      stub.answer = () =>
        stub.batches.length === 1
          ? { ...(refusal(503) as object), status: 503, headers: { 'retry-after': after() } }
          : undefined
      const forwarder = await startForwarder(t, { urls: [stub.url] })
      const boundary = await connectBoundary(t, forwarder.socket)
      await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(10) }))
      await until(() => stub.counted.size === 10, { what: 'another attempt' })
      const [first, second] = stub.batches
      t.ok((second?.at ?? 0) - (first?.at ?? 0) >= 2_900)
    }),
  )
})

t.test('no response, 429 and 5xx move on to the next URL; other answers do not', async (t) => {
  for (const [answer, movesOn] of [
    ['reset', true],
    [refusal(429), true],
    [page(502), true],
    [page(404), false],
    [page(301), false],
  ] as const) {
    const [first, second] = [await startStub(t), await startStub(t)]
    first.answer = () => (first.batches.length === 1 ? answer : undefined)
    const forwarder = await startForwarder(t, { urls: [first.url, second.url] })
    const boundary = await connectBoundary(t, forwarder.socket)
    await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(10) }))
    await until(() => first.counted.size + second.counted.size === 10, { what: 'another attempt' })
    t.equal(second.counted.size, movesOn ? 10 : 0, JSON.stringify(answer))
  }
})

t.test('after an outage one batch goes ahead of the rest, and everything arrives once', async (t) => {
  const stub = await startStub(t)
  await stub.stop()
  const forwarder = await startForwarder(t, { urls: [stub.url] })
  const boundary = await connectBoundary(t, forwarder.socket)
  const sessions = Array.from({ length: 50 }, () => randomUUID())
  for (const session_id of sessions)
    for (let n = 0; n < 4; n++)
      await boundary.send(envelopeFrame({ session_id, logs: boundaryLogs(10, 10 * n) }))
  await forwarder.log('the service takes no logs')
  let inFlight = 0
  let isFirst = true
  stub.answer = () => {
    if (isFirst) t.equal(inFlight, 0, 'the first goes alone')
    isFirst = false
    inFlight++
    return undefined
  }
  await stub.start()
  await until(() => stub.counted.size === 2000, { what: 'all logs' })
  t.equal(stub.duplicates, 0)
  t.match(await forwarder.totals(), { logs_sent: 2000, logs_waiting: 0 })
})

t.test('a batch that fails while others succeed goes behind them, and is not lost', async (t) => {
  const stub = await startStub(t)
  const [bad, good] = [randomUUID(), randomUUID()]
  let isMended = false
  stub.answer = ({ sessionId }) => (sessionId === bad && !isMended ? page(500) : undefined)
  const forwarder = await startForwarder(t, { urls: [stub.url] })
  const boundary = await connectBoundary(t, forwarder.socket)
  await boundary.send(envelopeFrame({ session_id: bad, logs: boundaryLogs(10) }))
  await until(() => stub.batches.length > 0, { what: 'the bad batch' })
  for (let n = 0; n < 300; n++)
    await boundary.send(envelopeFrame({ session_id: good, logs: boundaryLogs(10, 10 * n) }))
  await until(() => stub.counted.size === 3000, { what: 'the others' })
  isMended = true
  await until(() => stub.counted.size === 3010, { what: 'the batch that failed' })
})

t.test('401 and 403 have the token file read again; an empty one keeps the old token', async (t) => {
  const stub = await startStub(t)
  const file = join(await scratch(t), 'token')
  const [old, fresh] = ['old-token-of-24-characters', 'new-token-of-24-characters']
  await writeFile(file, `${old}\n`)
  let valid = old
  stub.answer = ({ token }) => (token === valid ? undefined : refusal(stub.batches.length % 2 ? 401 : 403))
  const forwarder = await startForwarder(t, { urls: [stub.url], args: ['--token-file', file] })
  const boundary = await connectBoundary(t, forwarder.socket)
  await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(10) }))
  await until(() => stub.counted.size === 10, { what: 'logs under the old token' })

  await writeFile(file, fresh)
  valid = fresh
  await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(10) }))
  await until(() => stub.counted.size === 20, { what: 'logs under the new token', limit: 8_000 })

  await writeFile(file, '')
  valid = 'none'
  const before = stub.batches.length
  await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(10) }))
  await until(() => stub.batches.length > before, { what: 'a refused attempt' })
  valid = fresh
  await until(() => stub.counted.size === 30, { what: 'the old token to be kept' })
  t.strictSame([...new Set(stub.batches.map(({ token }) => token))], [old, fresh])
  const [refused, next] = stub.batches.slice(before)
  t.ok((next?.at ?? 0) - (refused?.at ?? 0) > 9_000, 'it is slow to try again')
})

t.test('a service that accepts connections and says nothing does not hold logs forever', async (t) => {
  const dead = createServer((socket) => socket.on('error', () => {}).resume()).listen(0, '127.0.0.1')
  await once(dead, 'listening')
  t.teardown(() => dead.close())
  const address = dead.address()
  const stub = await startStub(t)
  const forwarder = await startForwarder(t, {
    urls: [`http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`, stub.url],
  })
  const boundary = await connectBoundary(t, forwarder.socket)
  await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(10) }))
  await until(() => stub.counted.size === 10, { what: 'the other URL after 40 s' })
  t.match(await forwarder.log('the service takes no logs'), { reason: 'no response within 40000 ms' })
  await forwarder.kill()
})

t.test('beyond the limit, thousands of sessions of one log each hold nothing up', async (t) => {
  const stub = await startStub(t)
  await stub.stop()
  const limit = 1_000_000
  const forwarder = await startForwarder(t, { urls: [stub.url], args: ['--spool-limit', String(limit)] })
  const boundary = await connectBoundary(t, forwarder.socket)
  const count = 20_000
  for (let n = 0; n < count; n += 100)
    await boundary.send(
      ...Array.from({ length: 100 }, () =>
        envelopeFrame({ session_id: randomUUID(), logs: [{ sequence_number: 0 }] }),
      ),
    )
  await until(async () => (await forwarder.totals()).logs_read === count, { what: 'all logs to be read' })
  const totals = await forwarder.totals()
  t.equal(Number(totals.logs_waiting) + Number(totals.logs_dropped_over_limit), count)
  // Each takes more than a kilobyte of memory.
  t.ok(Number(totals.logs_waiting) > 100 && Number(totals.logs_waiting) < limit / 1000)
  await stub.start()
  await until(() => stub.counted.size === totals.logs_waiting, { what: 'what is left' })
})

t.test('beyond the limit the oldest logs of the largest session go, its highest number stays', async (t) => {
  const stub = await startStub(t)
  await stub.stop()
  const forwarder = await startForwarder(t, { urls: [stub.url], args: ['--spool-limit', '200000'] })
  const boundary = await connectBoundary(t, forwarder.socket)
  const [large, small] = [randomUUID(), randomUUID()]
  await boundary.send(envelopeFrame({ session_id: small, logs: boundaryLogs(10) }))
  for (let n = 0; n < 300; n++)
    await boundary.send(envelopeFrame({ session_id: large, logs: boundaryLogs(10, 10 * n) }))
  await until(async () => (await forwarder.totals()).logs_read === 3010, { what: 'all logs to be read' })
  const { logs_waiting, logs_dropped_over_limit: dropped } = await forwarder.totals()
  t.equal(Number(logs_waiting) + Number(dropped), 3010)
  t.ok(Number(dropped) > 500)
  await stub.start()
  await until(() => stub.counted.size === logs_waiting, { what: 'what is left' })
  t.strictSame(stub.numbersOf(small).length, 10)
  const numbers = stub.numbersOf(large)
  t.equal(numbers.at(-1), 2999)
  t.equal(3000 - numbers.length, dropped, 'what was dropped is what is missing')
  t.strictSame(
    numbers.slice(-100),
    Array.from({ length: 100 }, (_, n) => 2900 + n),
    'the oldest go first; only a batch whose response is awaited stays',
  )
  t.equal(
    forwarder.logs.filter(({ msg }) => msg.includes('dropping')).length,
    2,
    'one line when it begins, one when it ends',
  )
})
