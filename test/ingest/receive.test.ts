// Receiving a batch: what takes long holds up neither the event loop nor the batches of others.

import { EventEmitter } from 'node:events'
import { PassThrough } from 'node:stream'
import { setImmediate as round } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { BodyBudget } from '../../src/http/body-budget.js'
import type { ReceivedBatch } from '../../src/ingest/batch.js'
import { receiver } from '../../src/ingest/receive.js'
import { Line, Turns } from '../../src/ingest/turns.js'
import { gzipWithEmptyBlocks } from '../helpers/gzip.js'
import { until } from '../helpers/until.js'

const MIB = 1_048_576

/** A receiver whose batches are the bodies as text, and the outcomes in the order of their arrival. */
function setUp() {
  const budget = new BodyBudget(64 * MIB)
  const parse = (body: Buffer) => body.toString() as unknown as ReceivedBatch
  const receive = receiver({ budget, turns: new Turns(), line: new Line(), limit: MIB }, parse)
  const outcomes: unknown[] = []
  const start = (sender: string, encoding?: string) => {
    const socket = Object.assign(new EventEmitter(), { pause() {}, resume() {} })
    const headers = encoding === undefined ? {} : { 'content-encoding': encoding }
    const payload = new PassThrough()
    const request = { headers, credential: sender, ip: '127.0.0.1', raw: { socket } }
    receive(request as never, payload, (error, batch) => outcomes.push(error ? error.message : batch))
    return { payload, socket }
  }
  return { budget, outcomes, start }
}

/** Lets the event loop go round until that many outcomes are there. Returns how many rounds it took. */
async function roundsUntil(outcomes: unknown[], count: number): Promise<number> {
  for (let rounds = 0; rounds < 1_000_000; rounds++) {
    if (outcomes.length >= count) return rounds
    await round()
  }
  throw new Error(`${outcomes.length} of ${count} outcomes`)
}

t.test('the event loop goes round while a large body is decompressed', async (t) => {
  const { outcomes, start, budget } = setUp()
  const small = start('agent', 'gzip')
  small.payload.end(gzipSync('small'))
  const few = await roundsUntil(outcomes, 1)
  t.ok(few <= 5, `a small body took ${few} rounds`)

  const large = start('attacker', 'gzip')
  large.payload.end(gzipWithEmptyBlocks(Buffer.from('large'), 900_000))
  const many = await roundsUntil(outcomes, 2)
  t.ok(many > 20, `a large body took ${many} rounds`)
  t.same(outcomes, ['small', 'large'])
  t.equal(budget.bytes, 0)
})

t.test('large bodies are decompressed one at a time, and of each sender in turn', async (t) => {
  const { outcomes, start } = setUp()
  const body = (text: string) => gzipWithEmptyBlocks(Buffer.from(text), 100_000)
  for (let n = 0; n < 4; n++) start('attacker', 'gzip').payload.end(body(`attacker ${n}`))
  start('victim', 'gzip').payload.end(body('victim'))
  await until(() => outcomes.length === 5, { what: 'all bodies' })
  t.same(outcomes, ['attacker 0', 'attacker 1', 'victim', 'attacker 2', 'attacker 3'])
})

t.test('a large body that is not gzip, is cut, or holds too much is refused', async (t) => {
  const { outcomes, start, budget } = setUp()
  const whole = gzipWithEmptyBlocks(Buffer.from('whole'), 50_000)
  const flipped = Buffer.from(whole)
  flipped.writeUInt8(flipped.readUInt8(flipped.length - 5) ^ 1, flipped.length - 5)
  const much = gzipWithEmptyBlocks(Buffer.alloc(MIB + 1), 50_000)
  for (const body of [Buffer.alloc(50_000), whole.subarray(0, -9), flipped, much]) {
    outcomes.length = 0
    start('agent', 'gzip').payload.end(body)
    await until(() => outcomes.length === 1, { what: 'the refusal' })
    t.match(outcomes[0], body === much ? /at most|too large/ : /gzip/)
    t.equal(budget.bytes, 0)
  }
})

t.test('a body that is given up while it waits in line gets its answer at once', async (t) => {
  const { outcomes, start, budget } = setUp()
  start('a', 'gzip').payload.end(gzipWithEmptyBlocks(Buffer.from('first'), 900_000))
  start('b', 'gzip').payload.end(gzipWithEmptyBlocks(Buffer.from('second'), 900_000))
  start('b', 'gzip').payload.end(gzipWithEmptyBlocks(Buffer.from('third'), 100_000))
  await until(() => budget.bytes > 1_900_000, { what: 'all bodies' })
  budget.shed() // b's
  t.equal(outcomes.length, 2)
  await until(() => outcomes.length === 3, { what: 'the first body' })
  t.equal(outcomes[2], 'first')
  t.equal(budget.bytes, 0)
  start('b', 'gzip').payload.end(gzipWithEmptyBlocks(Buffer.from('fourth'), 100_000))
  await until(() => outcomes.length === 4, { what: 'the fourth body' })
  t.equal(outcomes[3], 'fourth')
})

t.test('a connection rests after many small chunks, and goes on', async (t) => {
  const { outcomes, start } = setUp()
  const { payload, socket } = start('agent')
  const calls: string[] = []
  Object.assign(socket, { pause: () => calls.push('pause'), resume: () => calls.push('resume') })
  for (let n = 0; n < 4_000; n++) payload.write(' ')
  await round()
  await round()
  t.same(calls, [])
  for (let n = 0; n < 1_000; n++) payload.write(' ')
  await until(() => calls.length === 2, { what: 'the rest' })
  t.same(calls, ['pause', 'resume'])
  payload.end()
  await until(() => outcomes.length === 1, { what: 'the body' })
  t.equal(outcomes[0], ' '.repeat(5_000))
})
