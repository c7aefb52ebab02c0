// Unit tests of the flusher. The test itself responds to its writes.

import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import type { FlushOutcome } from '../../src/counting/flush.js'
import { Flusher } from '../../src/counting/flusher.js'
import type { Flush } from '../../src/counting/tracker.js'
import { runsOf } from '../helpers/numbers.js'
import { newTracker } from '../helpers/tracker.js'
import { until } from '../helpers/until.js'

interface Call {
  flush: Flush
  respond: (outcome?: Partial<FlushOutcome>) => void
  fail: () => void
}

/** A flusher whose writes wait until the test responds. */
function setup() {
  const tracker = newTracker()
  const calls: Call[] = []
  const results: string[] = []
  const flusher = new Flusher({
    tracker,
    apply: (flush) =>
      new Promise((resolve, reject) => {
        calls.push({
          flush,
          respond: (outcome) => resolve({ result: 'applied', newPeriod: false, duplicates: 0, ...outcome }),
          fail: () => reject(new Error('connection lost')),
        })
      }),
    onAttempt: ({ result }) => results.push(result),
  })
  /** Resolves with the nth write once it was made. */
  const call = (n: number) => until(() => calls[n - 1], { what: `write ${n}` })
  return { tracker, flusher, calls, results, call }
}

t.test('with nothing new the flusher does not access the database', async (t) => {
  const { flusher, calls } = setup()
  await flusher.flush()
  t.equal(calls.length, 0)
})

t.test('one flush runs at a time, and all waiters in the meantime share the next', async (t) => {
  const { tracker, flusher, calls, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const first = flusher.flush()
  tracker.track('w', 'o', 2, 0)
  const second = flusher.flush()
  tracker.track('w', 'o', 4, 0)
  t.equal(flusher.flush(), second)
  t.equal(calls.length, 1)
  ;(await call(1)).respond()
  await first
  const next = await call(2)
  t.equal(next.flush.allowedRequests, 6)
  next.respond()
  await second
  t.strictSame(tracker.unflushed, { allowed: 0, denied: 0 })
})

t.test('a failed flush is attempted again unchanged, then follows what arrived since', async (t) => {
  const { tracker, flusher, results, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const failing = flusher.flush()
  ;(await call(1)).fail()
  await t.rejects(failing, { message: 'connection lost' })
  tracker.track('w', 'o', 2, 0)

  const flushing = flusher.flush()
  const again = await call(2)
  t.equal(again.flush, (await call(1)).flush)
  again.respond({ result: 'duplicate' })
  const next = await call(3)
  t.strictSame([next.flush.flushSeq, next.flush.allowedRequests], [2, 2])
  next.respond()
  await flushing
  t.strictSame(results, ['failed', 'duplicate', 'applied'])
})

t.test('a failure rejects the waiters of that flush, not those of the next', async (t) => {
  const { tracker, flusher, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const first = flusher.flush()
  const second = flusher.flush()
  ;(await call(1)).fail()
  await t.rejects(first)
  ;(await call(2)).respond()
  await t.resolves(second)
})

t.test('the loop continues after failures and ends when aborted', async (t) => {
  const { tracker, flusher, results, call } = setup()
  const controller = new AbortController()
  const loop = flusher.run(10, controller.signal)
  tracker.track('w', 'o', 1, 0)
  ;(await call(1)).fail()
  ;(await call(2)).fail()
  ;(await call(3)).respond()
  tracker.track('w', 'o', 1, 0)
  ;(await call(4)).respond()
  controller.abort()
  await loop
  t.strictSame(results, ['failed', 'failed', 'applied', 'applied'])
})

t.test('a drain retries until everything is flushed', async (t) => {
  const { tracker, flusher, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const draining = flusher.drain(60_000)
  ;(await call(1)).fail()
  ;(await call(2)).respond()
  await draining
  t.strictSame(tracker.unflushed, { allowed: 0, denied: 0 })
})

t.test('a drain without a response rejects at its deadline', async (t) => {
  const { tracker, flusher } = setup()
  tracker.track('w', 'o', 1, 0)
  await t.rejects(flusher.drain(20), { message: /no answer within/ })
  t.strictSame(tracker.unflushed, { allowed: 1, denied: 0 }, 'the tracker keeps what was not flushed')
})

t.test(
  'a flush requested at the moment another ends does not run concurrently with the waiting one',
  async (t) => {
    const { tracker, flusher, calls, call } = setup()
    tracker.track('w', 'o', 1, 0)
    const first = flusher.flush()
    tracker.track('w', 'o', 1, 0)
    const second = flusher.flush()
    const third = first.then(() => flusher.flush())
    ;(await call(1)).respond()
    await first
    ;(await call(2)).respond()
    await Promise.all([second, third])
    t.equal(calls.length, 2)
  },
)

t.test('the next flush is sent before the waiters of the previous one resolve', async (t) => {
  const tracker = newTracker()
  const order: string[] = []
  const responses: (() => void)[] = []
  const flusher = new Flusher({
    tracker,
    apply: ({ flushSeq }) =>
      new Promise((resolve) => {
        setImmediate(() => order.push(`sent ${flushSeq}`)) // like postgres.js
        responses.push(() => resolve({ result: 'applied', newPeriod: false, duplicates: 0 }))
      }),
  })
  const end = new AbortController()
  const running = flusher.run(3_600_000, end.signal)
  const commit = async (name: string) => {
    tracker.track('w', 'o', 1, 0)
    await flusher.commit(10_000)
    order.push(`resolved ${name}`)
  }
  const first = commit('first')
  await until(() => order.length > 0, { what: 'the first flush to be sent' })
  const second = commit('second')
  responses[0]?.()
  await first
  responses[1]?.()
  await second
  t.strictSame(order, ['sent 1', 'sent 2', 'resolved first', 'resolved second'])
  end.abort()
  await running
})

t.test('a cut is flushed behind the flush in progress, and what follows is held back', async (t) => {
  const { tracker, flusher, calls, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const first = flusher.flush()
  tracker.track('w', 'o', 2, 0)
  const reported = flusher.report(5_000, { holdMs: 60_000 })
  tracker.track('w', 'o', 4, 0)
  const rest = flusher.flush()
  ;(await call(1)).respond()
  const cut = await call(2)
  t.hasStrict(cut.flush, { flushSeq: 2, allowedRequests: 2, reportedUntil: 5_000 })
  cut.respond()
  await Promise.all([first, reported])
  await turn()
  t.equal(calls.length, 2)
  flusher.release(5_000)
  const next = await call(3)
  t.hasStrict(next.flush, { flushSeq: 3, allowedRequests: 4, reportedUntil: undefined })
  next.respond()
  await rest
})

t.test('what a second cut seals is held back behind the first one', async (t) => {
  const { tracker, flusher, calls, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const first = flusher.report(5_000, { holdMs: 60_000 })
  ;(await call(1)).respond()
  await first
  tracker.track('w', 'o', 2, 0)
  const second = flusher.report(6_000, { holdMs: 60_000 })
  tracker.track('w', 'o', 4, 0)
  const rest = flusher.flush()
  await turn()
  t.equal(calls.length, 1)
  flusher.release(5_000)
  t.hasStrict((await call(2)).flush, { allowedRequests: 2, reportedUntil: 6_000 })
  ;(await call(2)).respond()
  await second
  await turn()
  t.equal(calls.length, 2)
  flusher.release(6_000)
  ;(await call(3)).respond()
  await rest
  t.strictSame(tracker.unflushed, { allowed: 0, denied: 0 })
})

t.test('each cut ends its own part, also while the parts before it are held back', async (t) => {
  const { tracker, flusher, call } = setup()
  const first = flusher.report(5_000, { holdMs: 60_000 })
  ;(await call(1)).respond()
  await first
  const cuts: Promise<void>[] = []
  for (const n of [1, 2, 3]) {
    tracker.track('w', 'o', n, 0)
    cuts.push(flusher.report(5_000 + n))
  }
  tracker.track('w', 'o', 4, 0)
  flusher.release(5_000)
  for (const n of [1, 2, 3]) {
    t.hasStrict((await call(1 + n)).flush, { allowedRequests: n, reportedUntil: 5_000 + n })
    ;(await call(1 + n)).respond()
  }
  await Promise.all(cuts)
  t.strictSame(tracker.unflushed, { allowed: 4, denied: 0 })
})

t.test('of cuts that wait until a part can be sealed, the last one tells what is reported', async (t) => {
  const { tracker, flusher, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const first = flusher.flush()
  const cuts = Array.from({ length: 10 }, (_, n) => flusher.report(5_001 + n))
  tracker.track('w', 'o', 2, 0)
  ;(await call(1)).respond()
  for (let n = 1; n <= 8; n++) {
    t.hasStrict((await call(1 + n)).flush, { allowedRequests: 0, reportedUntil: 5_000 + n })
    ;(await call(1 + n)).respond()
  }
  t.hasStrict((await call(10)).flush, { allowedRequests: 2, reportedUntil: 5_010 })
  ;(await call(10)).respond()
  await Promise.all([first, ...cuts])
})

t.test('a cut that fails rejects, and is reported by the next attempt', async (t) => {
  const { tracker, flusher, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const reported = flusher.report(5_000)
  ;(await call(1)).fail()
  await t.rejects(reported, { message: 'connection lost' })
  const flushing = flusher.flush()
  t.equal((await call(2)).flush.reportedUntil, 5_000)
  ;(await call(2)).respond()
  await flushing
})

t.test('a hold ends by itself, and before sessions would be refused', async (t) => {
  const { tracker, flusher, call } = setup()
  const first = flusher.report(5_000, { holdMs: 20 })
  ;(await call(1)).respond()
  await first
  tracker.track('w', 'o', 1, 0)
  const flushing = flusher.flush()
  ;(await call(2)).respond()
  await flushing

  const second = flusher.report(6_000, { holdMs: 60_000 })
  ;(await call(3)).respond()
  await second
  for (let session = 0; session < 20_000; session++)
    tracker.track('w', 'o', 1, 0, {
      id: `s${session}`,
      numbers: runsOf({ allowed: [0, 1] }),
    })
  t.ok(tracker.isFlushUrgent)
  const urgent = flusher.flush()
  ;(await call(4)).respond()
  await urgent
})

t.test('a drain waits for the end of a hold for half of its time', async (t) => {
  const { tracker, flusher, call } = setup()
  const reported = flusher.report(5_000, { holdMs: 60_000 })
  ;(await call(1)).respond()
  await reported
  tracker.track('w', 'o', 1, 0)
  const draining = flusher.drain(1_000)
  ;(await call(2)).respond()
  await draining
  t.strictSame(tracker.unflushed, { allowed: 0, denied: 0 })
})
