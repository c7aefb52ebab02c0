// The end of the process: it closes once, whatever number of signals and errors arrive meanwhile.

import { EventEmitter } from 'node:events'
import t, { type Test } from 'tap'
import { type EndReason, endInOrder } from '../src/signals.js'

/** As Promise.withResolvers(), which Node.js 20 lacks. */
function withResolvers() {
  let resolve: (code: number) => void = () => {}
  const promise = new Promise<number>((r) => {
    resolve = r
  })
  return { promise, resolve }
}

function start(t: Test) {
  const { promise: closing, resolve } = withResolvers()
  t.teardown(() => resolve(0))
  const events = new EventEmitter()
  const reasons: EndReason[] = []
  const lines: string[] = []
  const codes: number[] = []
  const clock = { now: 1_000_000 }
  const line = (...args: unknown[]) => void lines.push(String(args.at(-1)))
  const end = endInOrder({
    log: { info: line, warn: line, error: line, fatal: line },
    close: (reason) => {
      reasons.push(reason)
      return closing
    },
    timeoutMs: 60_000,
    exit: async (code) => void codes.push(code),
    events,
    now: () => clock.now,
  })
  const signal = (name: string, afterMs = 0) => {
    clock.now += afterMs
    events.emit(name, name)
  }
  return { events, end, signal, resolve, reasons, lines, codes }
}

t.test('signals that arrive together close once and exit with the code of the close', async (t) => {
  const { signal, end, resolve, reasons, codes } = start(t)
  for (const name of ['SIGINT', 'SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR2', 'SIGINT'])
    signal(name, 5)
  t.strictSame(codes, [])
  resolve(0)
  await end({ signal: 'SIGTERM' })
  t.strictSame(reasons, [{ signal: 'SIGINT' }])
  t.strictSame(codes, [0])
})

t.test('a supervisor may repeat SIGTERM as often and as late as it wants', async (t) => {
  const { signal, codes } = start(t)
  for (let n = 0; n < 10; n++) signal('SIGTERM', 5_000)
  t.strictSame(codes, [])
})

t.test('a burst of SIGINT is not a person who insists, however long it lasts', async (t) => {
  const { signal, codes } = start(t)
  for (let n = 0; n < 100; n++) signal('SIGINT', 100)
  t.strictSame(codes, [])
})

t.test('a Ctrl-C more than a second after the previous signal exits with 1 and says so', async (t) => {
  const { signal, codes, lines } = start(t)
  signal('SIGINT')
  signal('SIGINT', 3)
  signal('SIGINT', 1_001)
  t.strictSame(codes, [1])
  t.strictSame(lines, ['second Ctrl-C: exiting at once, requests not yet flushed are lost'])
})

t.test('errors during the shutdown are logged and do not cut it short', async (t) => {
  const { events, end, resolve, reasons, lines, codes } = start(t)
  const err = new Error('first')
  events.emit('uncaughtException', err)
  events.emit('uncaughtException', new Error('second'))
  events.emit('unhandledRejection', new Error('third'))
  t.strictSame(codes, [])
  resolve(1)
  await end({ err })
  t.strictSame(reasons, [{ err }])
  t.strictSame(lines, ['uncaught error during shutdown', 'uncaught error during shutdown'])
  t.strictSame(codes, [1])
})

t.test('a close that takes too long exits with 1', async (t) => {
  const { promise, resolve } = withResolvers()
  const events = new EventEmitter()
  endInOrder({
    log: { info() {}, warn() {}, error() {}, fatal() {} },
    close: () => new Promise(() => {}),
    timeoutMs: 1,
    exit: async (code) => resolve(code),
    events,
  })
  events.emit('SIGTERM')
  t.equal(await promise, 1)
})
