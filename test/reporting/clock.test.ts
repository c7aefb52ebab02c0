// The database's clock between heartbeats.

import t from 'tap'
import { boundaryBefore, DatabaseClock } from '../../src/reporting/clock.js'

function setup() {
  const time = { now: 1_000 }
  const clock = new DatabaseClock(() => time.now)
  /** A heartbeat that took `tookMs`, of which the database read its clock at the given part. */
  function beat(offset: number, tookMs: number, part = 0.5): void {
    const sentAt = time.now
    time.now += tookMs
    clock.observe(sentAt, sentAt + tookMs * part + offset)
  }
  return { time, clock, beat }
}

t.test('the clock is unknown before the first heartbeat', async (t) => {
  const { clock } = setup()
  t.throws(() => clock.now())
})

t.test('it runs on between heartbeats', async (t) => {
  const { time, clock, beat } = setup()
  beat(5_000_000, 10)
  t.equal(clock.now(), time.now + 5_000_000)
  time.now += 60_000
  t.equal(clock.now(), time.now + 5_000_000)
})

t.test('a slow heartbeat does not replace a fast one, until that one is old', async (t) => {
  const { time, clock, beat } = setup()
  beat(5_000_000, 2)
  beat(5_000_000, 400, 0.9)
  t.equal(clock.now(), time.now + 5_000_000)
  time.now += 3_600_000
  beat(5_000_000, 400, 0.9)
  t.equal(clock.now(), time.now + 5_000_160)
})

t.test('a clock that was set is followed at once', async (t) => {
  const { time, clock, beat } = setup()
  beat(5_000_000, 2)
  beat(4_000_000, 400)
  t.equal(clock.now(), time.now + 4_000_000)
})

t.test('boundaries are multiples of the interval since 1970', async (t) => {
  const boundary = Date.parse('2026-01-31T12:30:00.000Z')
  t.equal(boundaryBefore(Date.parse('2026-01-31T12:47:03.250Z'), 1_800_000), boundary)
  t.equal(boundaryBefore(boundary, 1_800_000), boundary)
})
