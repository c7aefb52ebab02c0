// The ledger on a real PostgreSQL: every number of a session counts once, in both forms of the flush.

import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import { DECISIONS, type Decision } from '../../src/ingest/runs.js'
import { testDatabase } from '../helpers/database.js'
import { newReplica, sessionOf, sums } from '../helpers/ledger.js'
import { batchOf } from '../helpers/numbers.js'
import { keyOf } from '../helpers/tracker.js'

t.test('a number counts once, for the decision that arrived first, in both forms', async (t) => {
  const { database, sql } = await testDatabase(t)
  const one = newReplica(database)
  one.track('s', { allowed: [0, 5], denied: [5, 7], skipped: [7, 8] })
  t.strictSame(await one.flush(), {
    result: 'applied',
    newPeriod: true,
    duplicates: 0,
    storedRuns: {},
    form: 'full',
  })
  one.track('s', { allowed: [3, 10], denied: [10, 11] })
  t.strictSame(await one.flush(), {
    result: 'applied',
    newPeriod: false,
    duplicates: 5,
    storedRuns: {},
    form: 'lean',
  })
  one.track('s', { allowed: [0, 2], denied: [20, 22] }, 'another user')
  t.strictSame(await one.flush(), {
    result: 'applied',
    newPeriod: false,
    duplicates: 2,
    storedRuns: {},
    form: 'full',
  })
  one.track('s', { skipped: [0, 30] })
  t.strictSame(await one.flush(), {
    result: 'applied',
    newPeriod: false,
    duplicates: 0,
    storedRuns: {},
    form: 'lean',
  })
  t.strictSame(await sums(sql), { allowed: 7, denied: 5, duplicates: 7, missing: 0, recovered: 0 })
  t.strictSame(await sessionOf(sql, 's'), { received: '{[0,30)}', counted_from: 0, told_to: 0 })
})

t.test('repetitions within one flush are duplicates, but for skipped ones', async (t) => {
  const { database, sql } = await testDatabase(t)
  const one = newReplica(database)
  one.track('s', { allowed: [0, 5], skipped: [5, 6] })
  one.track('s', { allowed: [0, 7], skipped: [9, 10] })
  one.track('s', { denied: [6, 8], skipped: [0, 1] })
  t.equal((await one.flush()).duplicates, 5 + 1 + 1)
  t.strictSame(await sums(sql), { allowed: 6, denied: 1, duplicates: 7, missing: 0, recovered: 0 })
})

t.test('random flushes of three replicas count what plain sets count', async (t) => {
  const { database, sql } = await testDatabase(t)
  const log = fc.tuple(fc.nat(80), fc.constantFrom(...DECISIONS))
  const step = fc.record({
    replica: fc.nat(2),
    session: fc.nat(2),
    logs: fc.array(log, { minLength: 1, maxLength: 30 }).map((pairs) => new Map<number, Decision>(pairs)),
    flushes: fc.boolean(),
  })
  let cases = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 20 }), async (steps) => {
      await sql`truncate boundary_usage_stats, boundary_usage_replicas, boundary_usage_sessions`
      const replicas = [0, 1, 2].map(() => ({ real: newReplica(database), pending: [] as typeof steps }))
      const counted = new Map<string, Decision>()
      const expected = { allowed: 0, denied: 0, duplicates: 0, missing: 0, recovered: 0 }
      const flush = async ({ real, pending }: (typeof replicas)[number]) => {
        await real.flush()
        for (const { session, logs } of pending.splice(0))
          for (const [number, decision] of logs) {
            const isNew = !counted.has(`${session} ${number}`)
            if (isNew) counted.set(`${session} ${number}`, decision)
            if (decision !== 'skipped') expected[isNew ? decision : 'duplicates']++
          }
        if (JSON.stringify(await sums(sql)) !== JSON.stringify(expected))
          throw new Error(`${JSON.stringify(await sums(sql))}, expected ${JSON.stringify(expected)}`)
      }
      for (const step of steps) {
        const replica = replicas[step.replica]
        if (!replica) throw new Error('no replica')
        const { numbers } = batchOf(step.logs)
        replica.real.track(`s${step.session}`, numbers)
        replica.pending.push(step)
        if (step.flushes) await flush(replica)
      }
      for (const replica of replicas) if (replica.pending.length > 0) await flush(replica)
      cases++
    }),
    { numRuns: 60 },
  )
  t.equal(cases, 60)
})

for (const count of [2, 8])
  t.test(`${count} replicas that flush the same logs at the same moment count them once`, async (t) => {
    const { database, sql } = await testDatabase(t)
    const replicas = Array.from({ length: count }, () => newReplica(database))
    const sessions = Array.from({ length: 100 }, () => randomUUID())
    const rounds = 10
    for (let round = 0; round < rounds; round++) {
      const base = round * 20
      for (const replica of replicas)
        for (const session of sessions.toSorted(() => Math.random() - 0.5))
          replica.track(session, { allowed: [base, base + 15], denied: [base + 15, base + 20] })
      const outcomes = await Promise.all(replicas.map((replica) => replica.flush()))
      t.equal(
        outcomes.reduce((sum, { duplicates }) => sum + duplicates, 0),
        (count - 1) * 2_000,
      )
    }
    t.strictSame(await sums(sql), {
      allowed: rounds * 1_500,
      denied: rounds * 500,
      duplicates: rounds * (count - 1) * 2_000,
      missing: 0,
      recovered: 0,
    })
  })

t.test('a session counts from 0, or from its first number if that is at least 1,000', async (t) => {
  const { database, sql } = await testDatabase(t)
  const one = newReplica(database)
  one.track('new', { allowed: [999, 1_000] })
  one.track('forgotten', { allowed: [1_000, 1_001], denied: [1_005, 1_006] })
  await one.flush()
  t.strictSame(await sessionOf(sql, 'new'), { received: '{[999,1000)}', counted_from: 0, told_to: 0 })
  t.strictSame(await sessionOf(sql, 'forgotten'), {
    received: '{[1000,1001),[1005,1006)}',
    counted_from: 1_000,
    told_to: 0,
  })
})

t.test(
  'a session keeps its 5,000 highest holes; those below are missing, and their logs duplicates',
  async (t) => {
    const { database, sql } = await testDatabase(t)
    const one = newReplica(database)
    const odd = (from: number, to: number) => {
      const runs: number[] = []
      for (let n = from; n < to; n++) runs.push(2 * n + 1, 2 * n + 2)
      return runs
    }
    const first = async (session: string) =>
      (
        await sql`select lower(received)::int as first, upper(received)::int as end,
      (select count(*)::int from unnest(received)) as runs
      from boundary_usage_sessions where session_key = ${keyOf('w', session)}`
      )[0]
    one.track('s', { allowed: odd(0, 5_000) })
    await one.flush()
    t.strictSame({ ...(await first('s')) }, { first: 1, end: 10_000, runs: 5_000 }, '5,000 holes: 0, 2, 4 …')
    one.track('s', { allowed: odd(5_000, 5_010) })
    await one.flush()
    t.strictSame(
      { ...(await first('s')) },
      { first: 0, end: 10_020, runs: 5_001 },
      'the lowest 10 are closed',
    )
    t.strictSame(await sums(sql), { allowed: 5_010, denied: 0, duplicates: 0, missing: 10, recovered: 0 })

    one.track('s', { allowed: [0, 22] })
    t.equal((await one.flush()).duplicates, 21, 'only 20 was new')
    t.strictSame(await sums(sql), { allowed: 5_011, denied: 0, duplicates: 21, missing: 10, recovered: 0 })

    one.track('all at once', { allowed: odd(0, 6_000) })
    await one.flush()
    t.strictSame({ ...(await first('all at once')) }, { first: 0, end: 12_000, runs: 5_001 })
    t.strictSame((await sums(sql)).missing, 1_010)
  },
)

t.test('numbers of many runs that arrive for a known session close holes by what both have', async (t) => {
  const { database, sql } = await testDatabase(t)
  const one = newReplica(database)
  one.track('s', { allowed: [0, 12, 20, 21] })
  await one.flush()
  const many: number[] = []
  for (let n = 0; n < 6_000; n++) many.push(100 + 2 * n, 101 + 2 * n)
  one.track('s', { allowed: many })
  t.equal((await one.flush()).duplicates, 0)
  // Holes: [12, 20), [21, 100), and 5,999 of one number, of which the lowest 999 are closed.
  const closed = 8 + 79 + 999
  t.strictSame(await sums(sql), { allowed: 6_013, denied: 0, duplicates: 0, missing: closed, recovered: 0 })
  one.track('s', { allowed: [0, 12_100] })
  t.equal((await one.flush()).duplicates, 6_013 + closed)
})

t.test('a flush tells which of its sessions have many runs in the ledger, in both forms', async (t) => {
  const { database } = await testDatabase(t)
  const one = newReplica(database)
  const other = newReplica(database)
  const runs = (from: number, to: number) => {
    const allowed: number[] = []
    for (let n = from; n < to; n++) allowed.push(2 * n, 2 * n + 1)
    return { allowed }
  }
  one.track('few', runs(0, 19))
  one.track('many', runs(0, 20))
  t.hasStrict(await one.flush(), { form: 'full', storedRuns: { 1: 20 } })
  one.track('few', runs(20, 21))
  t.hasStrict(await one.flush(), { form: 'lean', storedRuns: { 0: 20 } })
  other.track('many', runs(20, 4_000))
  t.hasStrict(await other.flush(), { storedRuns: { 0: 4_000 } })
  other.track('many', { allowed: [0, 8_000] })
  t.strictSame((await other.flush()).storedRuns, {})
})

t.test('a closed hole is not missing if it was told before, or is a jump', async (t) => {
  const { database, sql } = await testDatabase(t)
  const one = newReplica(database)
  const spread = (from: number, holes: number) => {
    const runs: number[] = []
    for (let n = 0; n < holes; n++) runs.push(from + 2 * n + 1, from + 2 * n + 2)
    return runs
  }
  // Holes: [2, 5), which a snapshot has told; [7, 10); a jump of 1,000,001 numbers.
  one.track('s', { allowed: [0, 2, 5, 7] })
  await one.flush()
  await sql`update boundary_usage_sessions set told_to = 7`
  const end = 10 + 1 + 1_000_001
  one.track('s', { allowed: [10, 11, end, end + 1] })
  await one.flush()
  one.track('s', { allowed: spread(end + 1, 4_999) })
  await one.flush()
  t.equal((await sums(sql)).missing, 3, '[2, 5) and [7, 10) are closed, and 3 numbers were not told')
  one.track('s', { allowed: spread(end + 1 + 2 * 4_999, 1) })
  await one.flush()
  t.equal((await sums(sql)).missing, 3, 'the jump is closed, and not missing')
})

t.test('a number below told_to that arrives is recovered', async (t) => {
  const { database, sql } = await testDatabase(t)
  const one = newReplica(database)
  one.track('s', { allowed: [0, 5, 8, 12] })
  await one.flush()
  await sql`update boundary_usage_sessions set told_to = 12`
  one.track('s', { allowed: [6, 7], skipped: [5, 6], denied: [3, 5, 12, 14] })
  t.equal((await one.flush()).duplicates, 2)
  t.strictSame(await sums(sql), { allowed: 10, denied: 2, duplicates: 2, missing: 0, recovered: 2 })
})
