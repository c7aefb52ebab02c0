// The tracker by itself: what goes into which batch.

import t from 'tap'
import type { Tracker } from '../../src/usage/tracker.js'
import { newTracker } from '../helpers/tracker.js'

function setup() {
  const clock = { now: 1_000 }
  return { clock, tracker: newTracker(100_000, () => clock.now) }
}

/** What a flush would carry, in numbers. */
function summary(tracker: Tracker) {
  const batch = tracker.nextBatch()
  return (
    batch && {
      flushSeq: batch.flushSeq,
      own: [batch.workspaces.count, batch.users.count],
      period: [batch.periodWorkspaces, batch.periodUsers],
      requests: [batch.allowedRequests, batch.deniedRequests],
    }
  )
}

function settle(tracker: Tracker, newPeriod: boolean): void {
  if (tracker.unsettled) tracker.settle(tracker.unsettled, newPeriod)
}

t.test('nothing to flush when nothing happened', async (t) => {
  const { tracker } = setup()
  t.equal(tracker.nextBatch(), undefined)
  t.equal(tracker.unflushedAge, 0)
})

t.test('an unsettled batch stays as it is, whatever is tracked meanwhile', async (t) => {
  const { tracker } = setup()
  tracker.track('w1', 'o1', 2, 1)
  const first = summary(tracker)
  tracker.track('w2', 'o2', 10, 10)
  t.strictSame(summary(tracker), first)
  t.strictSame(tracker.unflushed, { allowed: 12, denied: 11 }, 'and what came is not lost')
})

t.test('logs tracked while a flush is under way are in the next one', async (t) => {
  const { tracker } = setup()
  tracker.track('w1', 'o1', 2, 1)
  tracker.nextBatch()
  tracker.track('w2', 'o1', 10, 10)
  settle(tracker, true)
  t.strictSame(summary(tracker), { flushSeq: 2, own: [1, 1], period: [2, 1], requests: [10, 10] })
})

t.test('a new period holds what its first batch held and what came since, and nothing older', async (t) => {
  const { tracker } = setup()
  tracker.track('old', 'old', 1, 0)
  tracker.nextBatch()
  settle(tracker, true)
  tracker.track('first', 'first', 1, 0)
  tracker.nextBatch()
  tracker.track('since', 'since', 1, 0)
  settle(tracker, true)
  t.strictSame(tracker.tracked, { workspaces: 2, users: 2 })
  t.strictSame(summary(tracker), { flushSeq: 3, own: [1, 1], period: [2, 2], requests: [1, 0] })
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

t.test('a batch is settled once, and only the one that is out', async (t) => {
  const { tracker } = setup()
  tracker.track('w', 'o', 1, 0)
  const batch = tracker.nextBatch()
  if (!batch) throw new Error('nothing to flush')
  tracker.settle(batch, true)
  t.throws(() => tracker.settle(batch, true))
})

t.test('the age is that of the oldest log that is not settled', async (t) => {
  const { clock, tracker } = setup()
  tracker.track('w', 'o', 1, 0)
  clock.now += 50
  tracker.track('w', 'o', 1, 0)
  tracker.nextBatch()
  clock.now += 50
  tracker.track('w', 'o', 1, 0)
  t.equal(tracker.unflushedAge, 100)
  settle(tracker, false)
  t.equal(tracker.unflushedAge, 0)
  clock.now += 7
  t.equal(tracker.unflushedAge, 7)
})
