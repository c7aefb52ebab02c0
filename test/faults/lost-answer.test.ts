// A connection that ends after the server committed a flush, and before the replica hears of it.

import t from 'tap'
import { testDatabase } from '../helpers/database.js'
import { logs, startReplica } from '../helpers/replica.js'
import { startProxy } from './proxy.js'

t.test('a lost answer to a flush (the connection cut after the server committed) counts once', async (t) => {
  const { url, sql } = await testDatabase(t)
  const proxy = await startProxy(t, Number(new URL(url).port))
  const replica = await startReplica(t, proxy.through(url))
  await replica.send({ logs: logs(6, 4) })

  let flushing: number | undefined
  let committed = 0
  proxy.judge(({ from, type, bytes, connection }) => {
    if (from === 'client' && type === 'P' && bytes.includes('with held')) flushing = connection
    // CommandComplete of the COMMIT that is sent along with the statement.
    if (connection !== flushing || from !== 'server' || type !== 'C' || !bytes.includes('COMMIT'))
      return 'pass'
    committed++
    return { cut: 0 }
  })
  await t.rejects(replica.app.counting.flush())
  t.equal(committed, 1)
  proxy.judge(() => 'pass')
  const [row] = await sql`select allowed_requests, denied_requests from boundary_usage_stats`
  t.strictSame({ ...row }, { allowed_requests: '6', denied_requests: '4' }, 'it had been applied')

  await replica.send({ logs: logs(1, 1) })
  const preview = await (await replica.get('/telemetry/snapshot')).json()
  t.hasStrict(preview, { unique_workspaces: 2, allowed_requests: 7, denied_requests: 5 })
  const metrics = await (await replica.get('/metrics')).text()
  t.match(metrics, /boundary_usage_flushes_total{result="duplicate"} 1\n/)
})
