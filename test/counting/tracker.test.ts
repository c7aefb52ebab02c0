// Unit tests of the tracker: which flush contains what.

import t from 'tap'
import { Tracker } from '../../src/counting/tracker.js'
import { runsOf } from '../helpers/numbers.js'
import { hash, keyOf, newTracker } from '../helpers/tracker.js'

function setup() {
  const clock = { now: 1_000 }
  return { clock, tracker: newTracker(100_000, () => clock.now) }
}

/** The figures of the next flush. */
function summary(tracker: Tracker) {
  const flush = tracker.nextFlush()
  return (
    flush && {
      flushSeq: flush.flushSeq,
      own: [flush.workspaces.count, flush.users.count],
      period: [flush.periodWorkspaces, flush.periodUsers],
      requests: [flush.allowedRequests, flush.deniedRequests],
    }
  )
}

function settle(tracker: Tracker, newPeriod: boolean): void {
  if (tracker.unsettled) tracker.settle(tracker.unsettled, newPeriod)
}

t.test('without activity there is no flush', async (t) => {
  const { tracker } = setup()
  t.equal(tracker.nextFlush(), undefined)
  t.equal(tracker.unflushedAge, 0)
})

t.test('an unsettled flush never changes, whatever is tracked in the meantime', async (t) => {
  const { tracker } = setup()
  tracker.track('w1', 'o1', 2, 1)
  const first = summary(tracker)
  tracker.track('w2', 'o2', 10, 10)
  t.strictSame(summary(tracker), first)
  t.strictSame(tracker.unflushed, { allowed: 12, denied: 11 }, 'what arrived in the meantime is kept')
})

t.test('logs tracked while a flush runs are in the next one', async (t) => {
  const { tracker } = setup()
  tracker.track('w1', 'o1', 2, 1)
  tracker.nextFlush()
  tracker.track('w2', 'o1', 10, 10)
  settle(tracker, true)
  t.strictSame(summary(tracker), { flushSeq: 2, own: [1, 1], period: [2, 1], requests: [10, 10] })
})

t.test('a new period contains its first flush and what arrived since, and nothing older', async (t) => {
  const { tracker } = setup()
  tracker.track('old', 'old', 1, 0)
  tracker.nextFlush()
  settle(tracker, true)
  tracker.track('first', 'first', 1, 0)
  tracker.nextFlush()
  tracker.track('since', 'since', 1, 0)
  settle(tracker, true)
  t.strictSame(tracker.tracked, { workspaces: 2, users: 2 })
  t.strictSame(summary(tracker), { flushSeq: 3, own: [1, 1], period: [2, 2], requests: [1, 0] })
})

t.test('many ids are all in the flush and in the period', async (t) => {
  const { tracker } = setup()
  const track = (from: number) => {
    for (let n = from; n < from + 300; n++) tracker.track(`w${n}`, `o${n % 7}`, 1, 0)
  }
  track(0)
  t.strictSame(summary(tracker), { flushSeq: 1, own: [300, 7], period: [300, 7], requests: [300, 0] })
  track(200)
  settle(tracker, true)
  t.strictSame(summary(tracker), { flushSeq: 2, own: [300, 7], period: [500, 7], requests: [300, 0] })
})

t.test('an id counts once in a period, and again in the flush after a snapshot', async (t) => {
  const { tracker } = setup()
  tracker.track('w', 'o', 1, 0)
  tracker.track('w', 'o', 1, 0)
  t.strictSame(summary(tracker), { flushSeq: 1, own: [1, 1], period: [1, 1], requests: [2, 0] })
  settle(tracker, true)
  tracker.track('w', 'o', 1, 0)
  t.strictSame(summary(tracker), { flushSeq: 2, own: [1, 1], period: [1, 1], requests: [1, 0] })
})

t.test('a flush is settled once, and only the frozen one', async (t) => {
  const { tracker } = setup()
  tracker.track('w', 'o', 1, 0)
  const flush = tracker.nextFlush()
  if (!flush) throw new Error('nothing to flush')
  tracker.settle(flush, true)
  t.throws(() => tracker.settle(flush, true))
})

t.test('the age is that of the oldest unsettled log', async (t) => {
  const { clock, tracker } = setup()
  tracker.track('w', 'o', 1, 0)
  clock.now += 50
  tracker.track('w', 'o', 1, 0)
  tracker.nextFlush()
  clock.now += 50
  tracker.track('w', 'o', 1, 0)
  t.equal(tracker.unflushedAge, 100)
  settle(tracker, false)
  t.equal(tracker.unflushedAge, 0)
  clock.now += 7
  t.equal(tracker.unflushedAge, 7)
})

t.test('beyond the limit the counts of period, flush and their union are estimates', async (t) => {
  const tracker = newTracker(100)
  const near = (count: number, truth: number) => Math.abs(count / truth - 1) < 0.05
  for (let n = 0; n < 100; n++) tracker.track(`w${n}`, 'o', 1, 0)
  t.equal(tracker.tracked.workspaces, 100, 'exact up to the limit')
  for (let n = 100; n < 10_000; n++) tracker.track(`w${n}`, 'o', 1, 0)
  t.ok(near(tracker.tracked.workspaces, 10_000))
  t.equal(tracker.tracked.users, 1)

  const first = tracker.nextFlush()
  t.ok(first && near(first.workspaces.count, 10_000))
  for (let n = 5_000; n < 15_000; n++) tracker.track(`w${n}`, 'o', 1, 0)
  settle(tracker, true)
  t.ok(near(tracker.tracked.workspaces, 15_000), 'frozen and pending ids merged')
  const second = tracker.nextFlush()
  t.ok(second && near(second.workspaces.count, 10_000))
  settle(tracker, false)
  tracker.track('w7', 'o', 1, 0)
  t.equal(tracker.nextFlush()?.hasNewIds, false, 'an id whose bit is set is not new')
})

t.test('an estimate is never below the limit that was exceeded', async (t) => {
  for (let limit = 1; limit < 200; limit++) {
    const tracker = newTracker(limit)
    for (let n = 0; n <= limit; n++) tracker.track(`w${n}`, 'o', 1, 0)
    t.ok(tracker.tracked.workspaces >= limit)
  }
})

t.test('ids tracked before the key was known give the same sketch as those tracked after', async (t) => {
  const early = new Tracker(100)
  const late = newTracker(100)
  const track = (tracker: Tracker, from: number, to: number) => {
    for (let n = from; n < to; n++) tracker.track(`w${n}`, `o${n % 3}`, 1, 0)
  }
  for (const tracker of [early, late]) {
    track(tracker, 0, 20)
    tracker.nextFlush()
    track(tracker, 10, 40)
  }
  early.useHash(hash, keyOf)
  for (const newPeriod of [true, false]) {
    const [a, b] = [early.nextFlush(), late.nextFlush()]
    for (const kind of ['workspaces', 'users'] as const) {
      t.equal(a?.[kind].toSketch().toBitString(), b?.[kind].toSketch().toBitString())
      t.equal(a?.[kind].count, b?.[kind].count)
    }
    for (const tracker of [early, late]) settle(tracker, newPeriod)
  }
  t.strictSame(early.tracked, late.tracked)
})

t.test('without a key the tracker is full at the limit, and accepts more once it has the key', async (t) => {
  const tracker = new Tracker(3)
  for (const id of ['a', 'b', 'a']) tracker.track(id, 'o', 1, 0)
  t.equal(tracker.isFull, false)
  tracker.track('c', 'o', 1, 0)
  t.equal(tracker.isFull, true)
  tracker.useHash(hash, keyOf)
  t.equal(tracker.isFull, false)
  tracker.track('d', 'o', 1, 0)
  t.equal(tracker.tracked.workspaces, 4)
})

t.test('a flush has new ids with respect to its own period', async (t) => {
  const { tracker } = setup()
  const next = (newPeriod: boolean) => {
    const isNew = tracker.nextFlush()?.hasNewIds
    settle(tracker, newPeriod)
    return isNew
  }
  tracker.track('w', 'o', 1, 0)
  t.equal(next(true), true)
  tracker.track('w', 'o', 1, 0)
  t.equal(next(false), false)
  tracker.track('w', 'p', 1, 0)
  t.equal(next(false), true)
  // A snapshot deleted the row. The flush that learns of it contains w only, so p is new to the new period.
  tracker.track('w', 'o', 1, 0)
  t.equal(tracker.nextFlush()?.hasNewIds, false)
  tracker.track('w', 'p', 1, 0)
  settle(tracker, true)
  t.equal(next(false), true)
})

t.test('a sealed part has its own number, and what is tracked later is in the flush after it', async (t) => {
  const { tracker } = setup()
  tracker.track('first', 'first', 1, 0)
  tracker.nextFlush()
  tracker.track('before', 'before', 2, 0)
  t.equal(tracker.pendingSeq, 2)
  t.hasStrict(tracker.seal(5_000), { flushSeq: 2, allowedRequests: 2, reportedUntil: 5_000 })
  t.equal(tracker.pendingSeq, 3)
  tracker.track('after', 'after', 4, 0)
  t.strictSame(tracker.unflushed, { allowed: 7, denied: 0 })
  settle(tracker, false)
  t.strictSame(summary(tracker), { flushSeq: 2, own: [1, 1], period: [2, 2], requests: [2, 0] })
  settle(tracker, false)
  t.equal(tracker.nextFlush({ pending: false }), undefined)
  t.strictSame(summary(tracker), { flushSeq: 3, own: [1, 1], period: [3, 3], requests: [4, 0] })
  t.equal(tracker.settledSeq, 2)
})

t.test('a sealed part has no ids of a period that ended with the flush before it', async (t) => {
  const { tracker } = setup()
  tracker.track('old', 'old', 1, 0)
  tracker.nextFlush()
  settle(tracker, true)
  tracker.track('first', 'first', 1, 0)
  tracker.nextFlush()
  tracker.track('sealed', 'first', 1, 0)
  tracker.seal(5_000)
  tracker.track('second', 'second', 1, 0)
  tracker.seal(6_000)
  tracker.track('since', 'since', 1, 0)
  settle(tracker, true)
  t.ok(tracker.nextFlush()?.hasNewIds)
  t.strictSame(summary(tracker), { flushSeq: 3, own: [1, 1], period: [2, 1], requests: [1, 0] })
  settle(tracker, false)
  t.strictSame(summary(tracker), { flushSeq: 4, own: [1, 1], period: [3, 2], requests: [1, 0] })
  settle(tracker, false)
  t.strictSame(summary(tracker), { flushSeq: 5, own: [1, 1], period: [4, 3], requests: [1, 0] })
})

t.test('parts are sealed one after another, and handed out in that order', async (t) => {
  const { tracker } = setup()
  for (const n of [1, 2, 3]) {
    tracker.track('w', 'o', n, 0)
    t.equal(tracker.seal(1_000 * n)?.flushSeq, n)
  }
  tracker.track('w', 'o', 4, 0)
  t.equal(tracker.settledSeq, 0)
  t.equal(tracker.nextFlush({ upTo: 0 }), undefined)
  for (const n of [1, 2, 3]) {
    t.hasStrict(tracker.nextFlush(), { flushSeq: n, allowedRequests: n, reportedUntil: 1_000 * n })
    settle(tracker, false)
  }
  t.equal(tracker.hasSealed, false)
  t.hasStrict(tracker.nextFlush(), { flushSeq: 4, allowedRequests: 4, reportedUntil: undefined })
})

t.test('what is sealed is bounded in parts and in runs of sessions', async (t) => {
  const { tracker } = setup()
  for (let n = 1; n <= 8; n++) t.equal(tracker.seal(n)?.flushSeq, n)
  t.equal(tracker.seal(9), undefined)
  tracker.nextFlush()
  t.equal(tracker.seal(9)?.flushSeq, 9)

  const { tracker: full } = setup()
  const allowed = Array.from({ length: 2 * 20_001 }, (_, n) => n + (n >> 1))
  full.track('w', 'o', 20_001, 0, { id: 's', numbers: runsOf({ allowed }) })
  t.equal(full.seal(1)?.sessions.runs, 20_001, 'the first part, whatever it holds')
  t.equal(full.seal(2), undefined)
  full.nextFlush()
  t.equal(full.seal(2)?.flushSeq, 2)
})

t.test('a session costs a flush also the runs that the ledger is known to have of it', async (t) => {
  const tracker = newTracker()
  const track = (session: string) =>
    tracker.track('w', 'u', 1, 0, { id: session, numbers: runsOf({ allowed: [0, 1] }) })
  const settleWith = (storedRuns?: Record<number, number>) => {
    const flush = tracker.nextFlush()
    if (flush) tracker.settle(flush, false, storedRuns)
  }
  track('a')
  track('b')
  t.equal(tracker.sessionCost, 2)
  settleWith({ 0: 5_000 })
  track('a')
  track('b')
  track('a')
  t.equal(tracker.sessionCost, 2 + 1_250, 'a quarter of them')
  settleWith()
  track('a')
  t.equal(tracker.sessionCost, 1 + 1_250, 'if the response was lost, what was known before')
  t.equal(tracker.isFlushDue, false, 'they make no flush due')
  settleWith({})
  track('a')
  t.equal(tracker.sessionCost, 1, 'until its holes are filled')
  settleWith({ 0: 399_992 })
  track('a')
  t.equal(tracker.isFullOfSessions, false)
  track('b')
  t.equal(tracker.isFullOfSessions, true)
  t.equal(tracker.isFlushUrgent, true, 'but for one that could not carry more')
})

t.test('a part in which nothing was tracked can be sealed', async (t) => {
  const { tracker } = setup()
  t.hasStrict(tracker.seal(5_000), { flushSeq: 1, since: undefined, allowedRequests: 0 })
  t.equal(tracker.unflushedAge, 0)
  tracker.nextFlush()
  settle(tracker, false)
  t.equal(tracker.settledSeq, tracker.trackedSeq)
})
