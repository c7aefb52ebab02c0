// The schedule: when it wakes, and that each period is reported once.

import t from 'tap'
import { Schedule, type ScheduleOptions } from '../../src/snapshots/schedule.js'
import type { SnapshotOutcome } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { logs, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

/** Runs a schedule until there are no more answers, and records its attempts. */
async function run(
  answers: ((boundary: number, schedule: Schedule) => Promise<SnapshotOutcome>)[],
  options: Partial<ScheduleOptions> = {},
) {
  const controller = new AbortController()
  const errors: unknown[] = []
  const attempts: { boundary: number; at: number }[] = []
  const now = () => performance.now()
  const schedule: Schedule = new Schedule({
    intervalMs: 400,
    now,
    goesFirst: () => true,
    checkMs: 50,
    longestWaitMs: 1_000,
    attempt: async (boundary) => {
      attempts.push({ boundary, at: now() })
      const answer = answers.shift()
      if (answers.length === 0) controller.abort()
      if (!answer) throw new Error('asked once too often')
      return answer(boundary, schedule)
    },
    onError: (error) => errors.push(error),
    ...options,
  })
  await schedule.run(controller.signal)
  return { attempts, errors }
}

t.test('the schedule checks again after a failure, and when another replica holds the lock', async (t) => {
  const { attempts, errors } = await run(
    [
      async () => {
        throw new Error('connection lost')
      },
      async () => ({ result: 'busy' }),
      async () => ({ result: 'not_due' }),
      async () => ({ result: 'not_due' }),
    ],
    { intervalMs: 1_000 },
  )
  t.strictSame(
    errors.map((error) => error instanceof Error && error.message),
    ['connection lost'],
  )
  const [before, last] = attempts.slice(-2)
  t.ok(before && last && last.boundary > before.boundary, 'then it waits for the next boundary')
  t.ok(last && last.at >= last.boundary)
})

t.test('a boundary that is too early is tried again', async (t) => {
  const early = async () => ({ result: 'early' }) as const
  const { attempts } = await run([early, early, async () => ({ result: 'not_due' })], { intervalMs: 1e9 })
  t.strictSame(
    attempts.map(({ boundary }) => boundary),
    [0, 0, 0],
  )
})

t.test(
  'a replica that does not go first checks a moment later, unless the snapshot was announced',
  async (t) => {
    const notDue = { result: 'not_due' } as const
    let announced = Number.NaN
    const { attempts } = await run(
      [
        async () => notDue,
        async (boundary, schedule) => {
          announced = boundary + 400
          setImmediate(() => schedule.recorded(announced)) // it waits by then
          return notDue
        },
        async () => notDue,
      ],
      { goesFirst: () => false },
    )
    t.ok(attempts[2] && attempts[2].boundary > announced)
    for (const { boundary, at } of attempts.slice(1)) t.ok(at >= boundary + 50)
  },
)

t.test('three replicas on one schedule report each period once, without gaps', async (t) => {
  const { url, sql } = await testDatabase(t)
  const env = { SNAPSHOT_INTERVAL_MS: '1000', FLUSH_INTERVAL_MS: '50' }
  const replicas = await Promise.all(Array.from({ length: 3 }, () => startReplica(t, url, env)))
  let sent = 0
  await until(
    async () => {
      for (const replica of replicas) {
        await replica.send({ logs: logs(1, 0) })
        sent++
      }
      const [{ n } = { n: 0 }] = await sql<
        { n: number }[]
      >`select count(*)::int as n from telemetry_snapshots`
      return n >= 3
    },
    { what: 'three snapshots' },
  )
  await Promise.all(replicas.map((replica) => replica.app.close()))
  const snapshots = await sql<{ period_start: Date; period_end: Date; trigger: string; allowed: number }[]>`
    select period_start, period_end, trigger, allowed_requests::int as allowed
    from telemetry_snapshots order by period_end`
  for (const [index, snapshot] of snapshots.entries()) {
    t.equal(snapshot.trigger, 'schedule')
    t.equal(snapshot.period_end.getTime() % 1_000, 0)
    if (index > 0) t.strictSame(snapshot.period_start, snapshots[index - 1]?.period_end)
  }
  const [rest] =
    await sql`select coalesce(sum(allowed_requests), 0)::int as allowed from boundary_usage_stats`
  t.equal(
    snapshots.reduce((sum, snapshot) => sum + snapshot.allowed, rest?.allowed ?? 0),
    sent,
  )
})
