// The schedule: when it wakes, and that each period is reported once.

import t from 'tap'
import { runSchedule, untilBoundary } from '../../src/snapshots/schedule.js'
import { boundaryBefore, type SnapshotOutcome } from '../../src/snapshots/snapshot.js'
import { testDatabase } from '../helpers/database.js'
import { logs, startReplica } from '../helpers/replica.js'

t.test('boundaries are multiples of the interval since 1970', async (t) => {
  const now = new Date('2026-01-31T12:47:03.250Z')
  t.equal(boundaryBefore(now, 1_800_000).toISOString(), '2026-01-31T12:30:00.000Z')
  t.equal(untilBoundary(now, 1_800_000), 12 * 60_000 + 56_750)
  t.equal(untilBoundary(new Date('2026-01-31T12:30:00.000Z'), 1_800_000), 1_800_000)
})

t.test('after a failure, and when another replica has the lock, it looks again', async (t) => {
  const controller = new AbortController()
  const errors: unknown[] = []
  const answers: (() => Promise<SnapshotOutcome>)[] = [
    async () => {
      throw new Error('connection lost')
    },
    async () => ({ result: 'busy' }),
    async () => ({ result: 'not_due', now: new Date(999) }), // a boundary is 1 ms away
    async () => {
      controller.abort()
      return { result: 'not_due', now: new Date(0) }
    },
  ]
  await runSchedule(
    {
      intervalMs: 1_000,
      attempt: async () => {
        const answer = answers.shift()
        if (!answer) throw new Error('asked once too often')
        return answer()
      },
      onError: (error) => errors.push(error),
    },
    controller.signal,
  )
  t.equal(answers.length, 0)
  t.strictSame(
    errors.map((error) => error instanceof Error && error.message),
    ['connection lost'],
  )
})

t.test('three replicas on one schedule report each period once, without gaps', async (t) => {
  const { url, sql } = await testDatabase(t)
  const env = { SNAPSHOT_INTERVAL_MS: '1000', FLUSH_INTERVAL_MS: '50' }
  const replicas = await Promise.all(Array.from({ length: 3 }, () => startReplica(t, url, env)))
  let sent = 0
  for (;;) {
    for (const replica of replicas) {
      await replica.send({ logs: logs(1, 0) })
      sent++
    }
    const [{ n } = { n: 0 }] = await sql<{ n: number }[]>`select count(*)::int as n from telemetry_snapshots`
    if (n >= 3) break
  }
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
