// Waiting: what ends a wait, what does not, and that no garbage collection does.

import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { backoff, Coalescer, pause, TimeoutError, timeout, Waker } from '../src/async.js'
import { collectGarbage } from './helpers/garbage.js'
import { until } from './helpers/until.js'

const LONG_MS = 3_600_000

/** Whether `promise` is settled once everything that is due now has run. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false
  const settle = () => {
    settled = true
  }
  promise.then(settle, settle)
  await turn()
  return settled
}

t.test('attempts back off exponentially with jitter, by at most the longest delay', async (t) => {
  for (const [failures, least, most] of [
    [1, 50, 100],
    [2, 100, 200],
    [5, 800, 1_600],
    [11, 30_000, 60_000],
    [10_000, 30_000, 60_000],
  ] as const) {
    const delays = Array.from({ length: 200 }, () => backoff(failures, 100, 60_000))
    t.ok(Math.min(...delays) >= least && Math.max(...delays) <= most, `after ${failures}`)
    t.ok(new Set(delays).size > 100, 'replicas that fail together do not retry together')
  }
})

t.test('a pause ends after its time, and at once when aborted', async (t) => {
  const start = performance.now()
  await pause(20)
  t.ok(performance.now() - start >= 19)
  const controller = new AbortController()
  const paused = pause(LONG_MS, { signal: controller.signal })
  t.equal(await isSettled(paused), false)
  controller.abort()
  await paused
  await pause(LONG_MS, { signal: controller.signal })
})

t.test('a wait ends when woken, also when that came first, and a wake-up ends one wait', async (t) => {
  const waker = new Waker()
  const { signal } = new AbortController()
  const waiting = waker.wait(LONG_MS, { signal })
  t.equal(await isSettled(waiting), false)
  waker.wake()
  await waiting
  waker.wake()
  waker.wake()
  await waker.wait(LONG_MS, { signal })
  const next = waker.wait(LONG_MS, { signal, ref: false })
  t.equal(await isSettled(next), false)
})

t.test('a timeout rejects when the time is over, and tells the work', async (t) => {
  let told: AbortSignal | undefined
  const hanging = timeout(10, (signal) => {
    told = signal
    return new Promise<never>(() => {})
  })
  await t.rejects(hanging, new TimeoutError('no answer within 10 ms'))
  t.equal(told?.aborted, true)
})

t.test('a timeout rejects with the reason of an abort, and starts no work after one', async (t) => {
  const controller = new AbortController()
  const hanging = timeout(LONG_MS, () => new Promise<never>(() => {}), controller.signal)
  controller.abort(new Error('shutting down'))
  await t.rejects(hanging, { message: 'shutting down' })
  let isStarted = false
  const late = timeout(
    LONG_MS,
    async () => {
      isStarted = true
    },
    controller.signal,
  )
  await t.rejects(late, { message: 'shutting down' })
  t.equal(isStarted, false)
})

t.test('work that settles in time settles the timeout, and leaves nothing behind', async (t) => {
  t.equal(await timeout(LONG_MS, async () => 'done'), 'done')
  await t.rejects(
    timeout(LONG_MS, async () => {
      throw new Error('refused')
    }),
    { message: 'refused' },
  )
  // What fails too late is no unhandled rejection.
  let fail: (error: Error) => void = () => {}
  const failing = new Promise<never>((_, reject) => {
    fail = reject
  })
  await t.rejects(
    timeout(1, () => failing),
    TimeoutError,
  )
  fail(new Error('too late'))
  await turn()
})

t.test('a garbage collection ends no wait: its time and its signal still do', async (t) => {
  const controller = new AbortController()
  const { signal } = controller
  const hang = () => new Promise<never>(() => {})
  const timed = [
    pause(100, { signal }),
    pause(100, { signal, ref: false }),
    new Waker().wait(100, { signal }),
    t.rejects(timeout(100, hang, signal), TimeoutError),
  ]
  const aborted = [pause(LONG_MS, { signal }), t.rejects(timeout(LONG_MS, hang, signal), { message: 'end' })]
  const waker = new Waker()
  const woken = waker.wait(LONG_MS, { signal })
  await collectGarbage()
  waker.wake()
  await woken
  await Promise.all(timed)
  await collectGarbage()
  controller.abort(new Error('end'))
  await Promise.all(aborted)
})

t.test('who asks while it runs waits for the next run, which all share', async (t) => {
  const runs: ((outcome: number) => void)[] = []
  const coalescer = new Coalescer(20, () => new Promise<number>((resolve) => runs.push(resolve)))
  const begun = performance.now()
  const first = coalescer.run()
  await until(() => runs.length === 1, { what: 'the first run' })
  const [second, third] = [coalescer.run(), coalescer.run()]
  runs[0]?.(1)
  t.equal(await first, 1)
  await until(() => runs.length === 2, { what: 'the second run' })
  t.ok(performance.now() - begun > 18, 'it does not begin at once')
  runs[1]?.(2)
  t.strictSame(await Promise.all([second, third]), [2, 2])
})

t.test('a run that fails rejects those who share it, and no others', async (t) => {
  let runs = 0
  const coalescer = new Coalescer(0, async () => {
    if (++runs === 1) throw new Error('lost')
    return runs
  })
  await t.rejects(coalescer.run(), { message: 'lost' })
  t.equal(await coalescer.run(), 2)
})
