// Unit tests of the numbers of sessions, against plain sets.

import fc from 'fast-check'
import t from 'tap'
import { Session, Sessions, sessionHash } from '../../src/counting/sessions.js'
import { DECISIONS, type Decision } from '../../src/ingest/runs.js'
import { batchOf, numbersOf, runsOf } from '../helpers/numbers.js'

/** Logs of one batch: numbers, each with its decision. */
const logs = (max: number) =>
  fc
    .array(fc.tuple(fc.nat(max), fc.constantFrom(...DECISIONS)), { maxLength: 40 })
    .map((pairs) => new Map<number, Decision>(pairs))

const runsIn = (multirange: string) => [...multirange.matchAll(/\d+/g)].map(Number)

t.test('a number belongs to the decision that arrived first, and a repetition counts once', async (t) => {
  let cases = 0
  fc.assert(
    fc.property(fc.array(logs(60), { maxLength: 12 }), (batches) => {
      const session = new Session('w', 's')
      const first = new Map<number, Decision>()
      for (const batch of batches) {
        let repeated = 0
        for (const [number, decision] of batch)
          if (!first.has(number)) first.set(number, decision)
          else if (decision !== 'skipped') repeated++
        if (session.add(runsOf(batchOf(batch).numbers)) !== repeated) return false
      }
      cases++
      return (
        DECISIONS.every((decision) => {
          const expected = [...first].filter(([, d]) => d === decision).map(([number]) => number)
          return (
            JSON.stringify(numbersOf(runsIn(session.toMultiranges()[decision]))) ===
            JSON.stringify(expected.sort((a, b) => a - b))
          )
        }) &&
        session.allowed === numbersOf(runsIn(session.toMultiranges().allowed)).length &&
        session.denied === numbersOf(runsIn(session.toMultiranges().denied)).length
      )
    }),
    { numRuns: 1_000 },
  )
  t.equal(cases, 1_000)
})

t.test('runs are maximal, whatever the order in which their numbers arrive', async (t) => {
  let cases = 0
  fc.assert(
    fc.property(fc.uniqueArray(fc.nat(200), { maxLength: 60 }), fc.nat(5), (numbers, size) => {
      const session = new Session('w', 's')
      for (let i = 0; i < numbers.length; i += size + 1)
        session.add(
          runsOf(
            batchOf(new Map(numbers.slice(i, i + size + 1).map((number) => [number, 'allowed'] as const)))
              .numbers,
          ),
        )
      cases++
      return (
        JSON.stringify(runsIn(session.toMultiranges().allowed)) ===
        JSON.stringify(batchOf(new Map(numbers.map((n) => [n, 'allowed']))).numbers.allowed)
      )
    }),
  )
  t.equal(cases, 100)
})

t.test('the totals are those of the sessions', async (t) => {
  const sessions = new Sessions()
  sessions.add(sessions.find('w1', 's'), runsOf({ allowed: [0, 10], denied: [10, 12], skipped: [12, 13] }))
  sessions.add(sessions.find('w2', 's'), runsOf({ allowed: [0, 5] }))
  sessions.add(sessions.find('w1', 's'), runsOf({ allowed: [5, 11], denied: [12, 14], skipped: [0, 3] }))
  t.strictSame(
    [sessions.size, sessions.allowed, sessions.denied, sessions.repeated],
    [2, 15, 3, 7],
    'sessions of different workspaces are different, and repeated skipped logs are ignored',
  )
})

t.test('repetitions take no memory', async (t) => {
  const session = new Session('w', 's')
  for (let n = 0; n < 1_000; n++) session.add(runsOf({ allowed: [n, n + 10] }))
  t.equal(session.runs, 1)
})

t.test('many runs make a flush due, and more of them are refused', async (t) => {
  const one = new Sessions()
  for (let n = 0; n < 249; n++) one.add(one.find('w', 's'), runsOf({ allowed: [n * 2, n * 2 + 1] }))
  t.equal(one.isFlushDue, false)
  one.add(one.find('w', 's'), runsOf({ allowed: [1_000, 1_001] }))
  t.equal(one.isFlushDue, true, 'at 250 runs of one session')

  const many = new Sessions()
  const fill = (from: number, to: number) => {
    for (let n = from; n < to; n++) many.add(many.find('w', `s${n}`), runsOf({ allowed: [0, 10] }))
  }
  fill(0, 19_999)
  t.equal(many.isFlushDue, false)
  fill(19_999, 20_000)
  t.equal(many.isFlushDue, true, 'at 20,000 runs of all sessions')
  fill(20_000, 99_999)
  t.equal(many.isFull, false)
  fill(99_999, 100_000)
  t.equal(many.isFull, true, 'at 100,000 runs')
})

t.test('a session has another key in another workspace and under another key', async (t) => {
  const keyOf = sessionHash(Buffer.alloc(32, 1))
  const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
  t.match(keyOf('w', 's'), uuid)
  t.equal(keyOf('w', 's'), keyOf('w', 's'))
  const keys = [keyOf('w', 's'), keyOf('w', 't'), keyOf('v', 's'), sessionHash(Buffer.alloc(32, 2))('w', 's')]
  t.equal(new Set(keys).size, 4)
})
