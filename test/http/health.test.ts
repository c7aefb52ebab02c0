// The probes and metrics, as Kubernetes and Prometheus request them.

import { Registry } from 'prom-client'
import t from 'tap'
import { requestDurations } from '../../src/http/request-durations.js'
import { startProxy } from '../faults/proxy.js'
import { testDatabase } from '../helpers/database.js'
import { json, logs, startReplica } from '../helpers/replica.js'

t.test('a serving replica is healthy and ready', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const path of ['/-/healthy', '/-/ready']) {
    const response = await replica.get(path)
    t.equal(response.status, 200)
    t.strictSame(await response.json(), { status: 'ok', reasons: [] })
  }
})

t.test(
  'a replica stays ready during a short outage, is not ready after ten flush intervals, and recovers',
  async (t) => {
    const { url } = await testDatabase(t)
    const proxy = await startProxy(t, Number(new URL(url).port))
    const replica = await startReplica(t, proxy.through(url), { FLUSH_INTERVAL_MS: '100' })
    proxy.setAway(true)
    t.equal((await replica.get('/-/ready')).status, 200, 'no usage waits for the database')
    await replica.send()
    t.equal((await replica.get('/-/ready')).status, 200, 'the usage has not waited long')

    const notReady = await until(() => replica.get('/-/ready'), 503)
    t.equal(notReady.headers.get('retry-after'), '1')
    t.match(await notReady.json(), { status: 'unavailable', reasons: [/10 flush intervals/] })
    t.ok(replica.app.counting.tracker.unflushedAge > 1_000)
    t.match(await scrape(), /^boundary_usage_ready 0$/m)
    t.ok(Number(/^boundary_usage_unflushed_age_seconds (\S+)$/m.exec(await scrape())?.[1]) > 1)
    t.equal((await replica.get('/-/healthy')).status, 200, 'the replica is still healthy')
    t.equal((await replica.send()).status, 202, 'and still counts')

    proxy.setAway(false)
    await until(() => replica.get('/-/ready'), 200)
    t.match(await scrape(), /^boundary_usage_ready 1$/m)
    t.hasStrict(await json(replica.get('/telemetry/snapshot')), { allowed_requests: 2 })

    async function scrape(): Promise<string> {
      return (await replica.get('/metrics')).text()
    }

    async function until(ask: () => Promise<Response>, status: number): Promise<Response> {
      for (;;) {
        const response = await ask()
        if (response.status === status) return response
        await response.arrayBuffer()
      }
    }
  },
)

t.test('every metric of the service is exported, with correct values', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  await replica.send({ logs: [...logs(6, 4), { allowed: true }] })
  await replica.send({ logs: 'none' })
  const before = await scrape()
  t.match(before, /^boundary_usage_unflushed_requests 10$/m)
  t.match(before, /^boundary_usage_unflushed_age_seconds (?!0$)[\d.]+$/m)
  await replica.post('/telemetry/snapshot')
  const text = await scrape()
  for (const line of [
    'boundary_usage_batches_total{result="accepted"} 1',
    'boundary_usage_batches_total{result="invalid"} 1',
    'boundary_usage_batches_total{result="rate_limited"} 0',
    'boundary_usage_logs_total{decision="allow"} 6',
    'boundary_usage_logs_total{decision="deny"} 4',
    'boundary_usage_logs_total{decision="skipped"} 1',
    'boundary_usage_flushes_total{result="applied"} 1',
    'boundary_usage_flushes_total{result="failed"} 0',
    'boundary_usage_duplicate_logs_total 0',
    'boundary_usage_missing_logs 0',
    'boundary_usage_late_replicas 0',
    'boundary_usage_flush_duration_seconds_count 1',
    'boundary_usage_unflushed_requests 0',
    'boundary_usage_unflushed_age_seconds 0',
    'boundary_usage_flush_interval_seconds 3600',
    'boundary_usage_snapshot_interval_seconds 0',
    'boundary_usage_ready 1',
    'boundary_usage_tracked_ids{kind="workspace"} 1',
    'boundary_usage_tracked_ids{kind="user"} 1',
    'boundary_usage_snapshots_total{trigger="manual",result="taken"} 1',
    'boundary_usage_snapshot_duration_seconds_count 1',
    'boundary_usage_database_up 1',
    `boundary_usage_build_info{version="${replica.app.counting.replica.version}"} 1`,
    'http_request_duration_seconds_count{method="POST",route="/boundary/logs",status_code="202"} 1',
    'http_request_duration_seconds_count{method="POST",route="/boundary/logs",status_code="400"} 1',
  ])
    t.ok(text.includes(`\n${line}\n`), line)
  t.match(text, /^boundary_usage_flush_last_success_timestamp_seconds 1\d{9}/m)
  t.match(text, /^boundary_usage_snapshot_last_success_timestamp_seconds 1\d{9}/m)
  t.match(text, /^process_cpu_seconds_total /m)

  async function scrape(): Promise<string> {
    const response = await replica.get('/metrics')
    t.match(response.headers.get('content-type'), /^text\/plain; version=0\.0\.4/)
    return response.text()
  }
})

t.test(
  'the histogram of requests is cumulative, and its sum and count are those of its buckets',
  async (t) => {
    const registry = new Registry()
    const { observe } = requestDurations(registry)
    for (const seconds of [0.0005, 0.001, 0.02, 3, 60]) observe('GET', '/', 200, seconds)
    observe('GET', '/', 500, 0.3)
    const labels = 'method="GET",route="/",status_code="200"'
    const of = (text: string, le: string) =>
      Number(
        text
          .split('\n')
          .find((line) => line.includes(`le="${le}"`) && line.includes('"200"'))
          ?.split(' ')
          .at(-1),
      )
    const text = await registry.metrics()
    t.strictSame(
      ['0.001', '0.0025', '0.025', '2.5', '5', '10', '+Inf'].map((le) => of(text, le)),
      [2, 2, 3, 3, 4, 4, 5],
    )
    t.ok(text.includes(`\nhttp_request_duration_seconds_count{${labels}} 5\n`))
    t.ok(text.includes(`\nhttp_request_duration_seconds_sum{${labels}} 63.0215\n`))
  },
)

t.test('metrics follow the naming conventions, and none has an id as a label', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  await replica.send()
  const metrics = await replica.app.metrics.registry.getMetricsAsJSON()
  const own = metrics.filter((metric) => /^(boundary_usage|http)_/.test(metric.name))
  t.ok(own.length >= 13)
  for (const { name, help, type } of own) {
    t.match(name, /^[a-z][a-z0-9_]*[a-z]$/)
    t.match(help, /^[A-Z].*\.$/, `${name} has a help text`)
    t.equal(
      String(type) === 'counter',
      name.endsWith('_total'),
      `${name}: counters and only they end in _total`,
    )
    t.notMatch(name, /_(ms|milliseconds|minutes|kb)(_|$)/, `${name} is in base units`)
  }
  t.notMatch(await (await replica.get('/metrics')).text(), /[0-9a-f]{8}-[0-9a-f]{4}-/)
})
