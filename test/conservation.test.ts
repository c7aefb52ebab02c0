// Many agents, several replicas, snapshots meanwhile: what was acknowledged is what is counted.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { testDatabase } from './helpers/database.js'
import { logs, type Replica, startReplica } from './helpers/replica.js'

t.test('100 concurrent agents against three replicas conserve every count', async (t) => {
  const { url, sql } = await testDatabase(t)
  const replicas = await Promise.all(
    Array.from({ length: 3 }, () => startReplica(t, url, { FLUSH_INTERVAL_MS: '10' })),
  )
  const sent = { allowed: 0, denied: 0 }
  let snapshots = 0

  async function agent(n: number): Promise<void> {
    const ids = { workspace_id: randomUUID(), owner_id: randomUUID() }
    // Each agent stays with one replica, as one with a kept-alive connection does.
    const replica = at(replicas, n)
    for (let round = 1; round <= 10; round++) {
      const allowed = (n * round) % 7
      const denied = (n + round) % 3
      t.equal((await replica.send({ ...ids, logs: logs(allowed, denied) })).status, 202)
      sent.allowed += allowed
      sent.denied += denied
    }
  }

  let done = false
  const snapshooting = (async () => {
    while (!done) {
      const response = await at(replicas, snapshots).post('/telemetry/snapshot')
      if (response.status !== 200 && response.status !== 409) t.fail(`snapshot answered ${response.status}`)
      await response.arrayBuffer()
      snapshots++
    }
  })()
  await Promise.all(Array.from({ length: 100 }, (_, n) => agent(n)))
  done = true
  await snapshooting

  await Promise.all(replicas.map((replica) => replica.app.counting.flush()))
  await replicas[0]?.post('/telemetry/snapshot')
  const [counted] =
    await sql`select sum(allowed_requests)::int as allowed, sum(denied_requests)::int as denied
    from telemetry_snapshots`
  t.strictSame({ ...counted }, sent)
  t.equal((await sql`select 1 from boundary_usage_stats`).length, 0)
  t.ok(snapshots > 1, `${snapshots} snapshots were asked for meanwhile`)
})

function at(replicas: Replica[], n: number): Replica {
  const replica = replicas[n % replicas.length]
  if (!replica) throw new Error('no replicas')
  return replica
}

t.test("distinct counts are the period's, over flushes and for each replica", async (t) => {
  const { url } = await testDatabase(t)
  const [a, b] = await Promise.all([startReplica(t, url), startReplica(t, url)])
  const owner_id = randomUUID()
  for (let n = 0; n < 3; n++) {
    await a.send({ owner_id })
    await a.app.counting.flush()
    await b.send()
  }
  await b.app.counting.flush()
  t.hasStrict(await (await a.post('/telemetry/snapshot')).json(), {
    replicas: 2,
    unique_workspaces: 6,
    unique_users: 4,
    allowed_requests: 6,
  })
  await a.send({ owner_id })
  t.hasStrict(await (await a.post('/telemetry/snapshot')).json(), {
    replicas: 1,
    unique_workspaces: 1,
    unique_users: 1,
    allowed_requests: 1,
  })
})
