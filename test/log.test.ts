// The log of a real process: one line for each change of state.

import { closeSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { stripVTControlCharacters } from 'node:util'
import Fastify from 'fastify'
import t from 'tap'
import { createLog, requestLogging, stdoutLog } from '../src/log.js'
import { startProxy } from './faults/proxy.js'
import { testDatabase } from './helpers/database.js'
import { migrationNames } from './helpers/migrations.js'
import { type ServiceProcess, startProcess } from './helpers/process.js'
import { json } from './helpers/replica.js'
import { startSink } from './helpers/sink.js'
import { until } from './helpers/until.js'

t.jobs = 2

/** Ends the service and counts the log lines that begin with each message. */
async function countLines(service: ServiceProcess, messages: string[]): Promise<Record<string, number>> {
  service.signal('SIGTERM')
  await service.exited
  return Object.fromEntries(
    messages.map((message) => [message, service.logs.filter(({ msg }) => msg.startsWith(message)).length]),
  )
}

/** Resolves when a metric has reached `least`. */
async function untilMetric(service: ServiceProcess, name: string, least: number): Promise<void> {
  await until(
    async () => {
      const text = await (await service.get('/metrics')).text()
      const line = text.split('\n').find((line) => line.startsWith(`${name} `))
      return Number(line?.split(' ').at(-1)) >= least
    },
    { what: `${name} to reach ${least}` },
  )
}

t.test(
  'the log from start to shutdown: migrations, readiness, each period and its snapshot once',
  async (t) => {
    const { url } = await testDatabase(t, { unmigrated: true })
    const service = await startProcess(t, { DATABASE_URL: url })
    for (let period = 1; period <= 2; period++) {
      for (let flush = 1; flush <= 3; flush++) {
        await service.send()
        await (await service.get('/telemetry/snapshot')).arrayBuffer() // flushes
      }
      await (await service.post('/telemetry/snapshot')).arrayBuffer()
    }
    const counts = await countLines(service, ['period opened', 'snapshot taken', 'ready', 'not ready'])
    t.strictSame(counts, { 'period opened': 2, 'snapshot taken': 2, ready: 1, 'not ready': 0 })
    t.strictSame(
      service.logs.map(({ msg }) => msg).filter((msg) => !/^(no tokens are set|Server listening)/.test(msg)),
      [
        ...['database reached', 'migrations applied', 'ready'],
        ...['period opened', 'snapshot taken', 'period opened', 'snapshot taken'],
        ...['shutting down', 'shut down'],
      ],
    )
    t.strictSame((await service.log('migrations applied')).migrations, await migrationNames())
    t.equal((await service.log('ready')).replica_name, 'test')
  },
)

t.test(
  'an outage of the database is logged once when it begins and once when it ends, whatever the number of attempts',
  async (t) => {
    const { url } = await testDatabase(t)
    const proxy = await startProxy(t, Number(new URL(url).port))
    const service = await startProcess(t, { DATABASE_URL: proxy.through(url), FLUSH_INTERVAL_MS: '50' })
    proxy.setAway(true)
    await service.send()
    await untilMetric(service, 'boundary_usage_flushes_total{result="failed"}', 5)
    proxy.setAway(false)
    await untilMetric(service, 'boundary_usage_flushes_total{result="applied"}', 1)
    t.strictSame(await countLines(service, ['database lost', 'database reached', 'flush failed']), {
      'database lost': 1,
      'database reached': 2,
      'flush failed': 0,
    })
  },
)

t.test('failing flushes and lost readiness are logged once, and so is their recovery', async (t) => {
  const { url, sql } = await testDatabase(t, { altered: true })
  const service = await startProcess(t, { DATABASE_URL: url, FLUSH_INTERVAL_MS: '50' })
  await sql`alter table boundary_usage_stats rename to away`
  await service.send()
  t.match(await service.log('not ready'), { level: 40, reason: /over 10 flush intervals/ })
  await sql`alter table away rename to boundary_usage_stats`
  await service.log('flushes work again')
  t.strictSame(
    await countLines(service, ['flush failed', 'flushes work again', 'not ready', 'ready', 'database lost']),
    {
      'flush failed': 1,
      'flushes work again': 1,
      'not ready': 1,
      ready: 2,
      'database lost': 0,
    },
  )
})

t.test('failing scheduled snapshots are logged once, and so is their recovery', async (t) => {
  const { url, sql } = await testDatabase(t, { altered: true })
  const service = await startProcess(t, { DATABASE_URL: url, SNAPSHOT_INTERVAL_MS: '1000' })
  await sql`alter table telemetry_snapshots rename to away`
  await untilMetric(service, 'boundary_usage_snapshots_total{trigger="schedule",result="failed"}', 3)
  await sql`alter table away rename to telemetry_snapshots`
  await service.log('scheduled snapshots work again')
  t.strictSame(await countLines(service, ['scheduled snapshot failed', 'scheduled snapshots work again']), {
    'scheduled snapshot failed': 1,
    'scheduled snapshots work again': 1,
  })
})

t.test(
  'a failing sink is logged once, whatever the number of deliveries, and so is its recovery',
  async (t) => {
    const sink = await startSink(t)
    const { url } = await testDatabase(t)
    const service = await startProcess(t, { DATABASE_URL: url, ...sink.env })
    sink.answer((response) => response.writeHead(500).end())
    const first = await json(service.post('/telemetry/snapshot'))
    const second = await json(service.post('/telemetry/snapshot'))
    await untilMetric(service, 'boundary_usage_deliveries_total{result="failed"}', 2)
    await service.post(`/telemetry/snapshots/${first.id}/redeliver`)
    await untilMetric(service, 'boundary_usage_deliveries_total{result="failed"}', 3)

    sink.answer((response) => response.writeHead(204).end())
    for (const { id } of [first, second]) await service.post(`/telemetry/snapshots/${id}/redeliver`)
    await untilMetric(service, 'boundary_usage_deliveries_total{result="delivered"}', 2)

    t.strictSame(
      await countLines(service, ['delivery failed', 'deliveries work again', 'delivery given up']),
      {
        'delivery failed': 1,
        'deliveries work again': 1,
        'delivery given up': 0,
      },
    )
    t.hasStrict(
      service.logs.find(({ msg }) => msg.startsWith('delivery failed')),
      {
        level: 40,
        snapshot_id: first.id,
        attempt: 1,
        error: 'status 500',
      },
    )
    t.notOk(service.stdout.includes('key=of-the-sink'), 'the URL of the sink is secret')
  },
)

t.test('an error after the response was sent is logged, without the request and its token', async (t) => {
  const lines: string[] = []
  const log = createLog('info', { write: (line) => void lines.push(line) })
  const app = Fastify(requestLogging(log))
  app.get('/faulty', async (_request, reply) => {
    reply.send('sent')
    throw new Error('too late')
  })
  await app.inject({ url: '/faulty', headers: { authorization: 'Bearer secret' } })
  await app.close()
  t.match(lines.join(''), '"message":"too late"')
  t.notMatch(lines.join(''), 'secret')
})

t.test('a terminal gets human-readable lines, everything else JSON', async (t) => {
  const written = async (isTerminal: boolean) => {
    const file = join(t.testdir(), 'log')
    const fd = openSync(file, 'w')
    const output = await stdoutLog(isTerminal, fd)
    output.write('{"level":30,"time":0,"msg":"ready"}\n')
    closeSync(fd)
    return readFileSync(file, 'utf8')
  }
  t.equal(await written(false), '{"level":30,"time":0,"msg":"ready"}\n')
  t.match(stripVTControlCharacters(await written(true)), /^\[\d\d:\d\d:\d\d\.\d{3}\] INFO: ready\n$/)
})
