// The flusher: one flush at a time, shared, tried again. Its database is a function that the test answers.

import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import type { FlushOutcome } from '../../src/counting/flush.js'
import { Flusher, retryDelay } from '../../src/counting/flusher.js'
import type { Flush } from '../../src/counting/tracker.js'
import { newTracker } from '../helpers/tracker.js'

interface Call {
  batch: Flush
  answer: (outcome?: Partial<FlushOutcome>) => void
  fail: () => void
}

/** A flusher whose every write waits for the test to answer it. */
function setup() {
  const tracker = newTracker()
  const calls: Call[] = []
  const results: string[] = []
  const watchers: (() => void)[] = []
  const flusher = new Flusher({
    tracker,
    apply: (batch) =>
      new Promise((resolve, reject) => {
        calls.push({
          batch,
          answer: (outcome) => resolve({ result: 'applied', newPeriod: false, ...outcome }),
          fail: () => reject(new Error('connection lost')),
        })
        for (const watcher of watchers.splice(0)) watcher()
      }),
    onAttempt: ({ result }) => results.push(result),
  })
  /** The nth write, as soon as it is made. */
  async function call(n: number): Promise<Call> {
    for (;;) {
      const found = calls[n - 1]
      if (found) return found
      await new Promise<void>((resolve) => watchers.push(resolve))
    }
  }
  return { tracker, flusher, calls, results, call }
}

t.test('with nothing new the database is not touched', async (t) => {
  const { flusher, calls } = setup()
  await flusher.flush()
  t.equal(calls.length, 0)
})

t.test('one flush runs at a time, and all who wait meanwhile share the next', async (t) => {
  const { tracker, flusher, calls, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const first = flusher.flush()
  tracker.track('w', 'o', 2, 0)
  const second = flusher.flush()
  tracker.track('w', 'o', 4, 0)
  t.equal(flusher.flush(), second)
  t.equal(calls.length, 1)
  ;(await call(1)).answer()
  await first
  const next = await call(2)
  t.equal(next.batch.allowedRequests, 6)
  next.answer()
  await second
  t.strictSame(tracker.unflushed, { allowed: 0, denied: 0 })
})

t.test('a flush that failed is tried again with the same batch, then what came since follows', async (t) => {
  const { tracker, flusher, results, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const failing = flusher.flush()
  ;(await call(1)).fail()
  await t.rejects(failing, { message: 'connection lost' })
  tracker.track('w', 'o', 2, 0)

  const flushing = flusher.flush()
  const again = await call(2)
  t.equal(again.batch, (await call(1)).batch)
  again.answer({ result: 'duplicate' })
  const next = await call(3)
  t.match(next.batch, { flushSeq: 2, allowedRequests: 2 })
  next.answer()
  await flushing
  t.strictSame(results, ['failed', 'duplicate', 'applied'])
})

t.test('a flush that fails fails for those who waited for it, not for those behind it', async (t) => {
  const { tracker, flusher, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const first = flusher.flush()
  const second = flusher.flush()
  ;(await call(1)).fail()
  await t.rejects(first)
  ;(await call(2)).answer()
  await t.resolves(second)
})

t.test('the loop goes on after failures and ends when aborted', async (t) => {
  const { tracker, flusher, results, call } = setup()
  const controller = new AbortController()
  const loop = flusher.run(10, controller.signal)
  tracker.track('w', 'o', 1, 0)
  ;(await call(1)).fail()
  ;(await call(2)).fail()
  ;(await call(3)).answer()
  tracker.track('w', 'o', 1, 0)
  ;(await call(4)).answer()
  controller.abort()
  await loop
  t.strictSame(results, ['failed', 'failed', 'applied', 'applied'])
})

t.test('a drain tries again until all is flushed', async (t) => {
  const { tracker, flusher, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const draining = flusher.drain(60_000)
  ;(await call(1)).fail()
  ;(await call(2)).answer()
  await draining
  t.strictSame(tracker.unflushed, { allowed: 0, denied: 0 })
})

t.test('a drain that gets no answer gives up when its time is over', async (t) => {
  const { tracker, flusher } = setup()
  tracker.track('w', 'o', 1, 0)
  await t.rejects(flusher.drain(20), { message: /not done within/ })
  t.strictSame(tracker.unflushed, { allowed: 1, denied: 0 }, 'and what it held is still known')
})

t.test('a flush asked for in the moment another ends does not run beside the one that waits', async (t) => {
  const { tracker, flusher, calls, call } = setup()
  tracker.track('w', 'o', 1, 0)
  const first = flusher.flush()
  tracker.track('w', 'o', 1, 0)
  const second = flusher.flush()
  const third = first.then(() => flusher.flush())
  ;(await call(1)).answer()
  await first
  ;(await call(2)).answer()
  await Promise.all([second, third])
  t.equal(calls.length, 2)
})

t.test('the next flush is sent before those who waited for the last are answered', async (t) => {
  const tracker = newTracker()
  const order: string[] = []
  const answers: (() => void)[] = []
  const flusher = new Flusher({
    tracker,
    apply: ({ flushSeq }) =>
      new Promise((resolve) => {
        setImmediate(() => order.push(`sent ${flushSeq}`)) // as postgres.js does
        answers.push(() => resolve({ result: 'applied', newPeriod: false }))
      }),
  })
  const end = new AbortController()
  const running = flusher.run(3_600_000, end.signal)
  const commit = async (name: string) => {
    tracker.track('w', 'o', 1, 0)
    await flusher.commit(10_000)
    order.push(`answered ${name}`)
  }
  const first = commit('first')
  while (order.length < 1) await turn()
  const second = commit('second')
  answers[0]?.()
  await first
  answers[1]?.()
  await second
  t.strictSame(order, ['sent 1', 'sent 2', 'answered first', 'answered second'])
  end.abort()
  await running
})

t.test('tries back off exponentially with jitter, and never by more than the longest delay', async (t) => {
  for (const [failures, least, most] of [
    [1, 50, 100],
    [2, 100, 200],
    [5, 800, 1_600],
    [11, 30_000, 60_000],
    [10_000, 30_000, 60_000],
  ] as const) {
    const delays = Array.from({ length: 200 }, () => retryDelay(failures, 60_000))
    t.ok(Math.min(...delays) >= least && Math.max(...delays) <= most, `after ${failures}`)
    t.ok(new Set(delays).size > 100, 'replicas that fail together do not try together')
  }
})
