// The end of the process as terminals, npm and supervisors bring it about: nothing acknowledged is lost.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Sql } from 'postgres'
import t, { type Test } from 'tap'
import { testDatabase, untilBlocked } from '../helpers/database.js'
import { startProcess } from '../helpers/process.js'
import { batch, logs } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

const SERVER = fileURLToPath(new URL('../../dist/server.js', import.meta.url))

/** What the service holds when it ends: `work` runs while the database keeps the final flush waiting. */
async function whileFlushWaits(sql: Sql, work: () => Promise<void>): Promise<void> {
  await sql.begin(async (tx) => {
    await tx`select from boundary_usage_stats for update`
    await work()
  })
}

async function allowedInDatabase(sql: Sql): Promise<number> {
  const [row] = await sql<
    { allowed: number }[]
  >`select sum(allowed_requests)::int as allowed from boundary_usage_stats`
  return row?.allowed ?? 0
}

/** `npm start` in a process group of its own, as a shell starts it. */
async function startByNpm(t: Test, databaseUrl: string) {
  const home = t.testdir()
  await writeFile(join(home, 'package.json'), JSON.stringify({ scripts: { start: `exec node ${SERVER}` } }))
  const child = spawn('npm', ['start'], {
    cwd: home,
    env: {
      PATH: process.env.PATH,
      HOME: home,
      npm_config_update_notifier: 'false',
      DATABASE_URL: databaseUrl,
      PORT: '0',
      FLUSH_INTERVAL_MS: '3600000',
      SNAPSHOT_INTERVAL_MS: '0',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  })
  const { pid } = child
  if (pid === undefined) throw new Error('npm did not start')
  t.teardown(() => {
    if (isRunning(child)) process.kill(-pid, 'SIGKILL')
  })
  const lines: string[] = []
  createInterface(child.stdout).on('line', (line) => lines.push(line))
  const find = (text: string) => lines.find((line) => line.includes(text))
  const logged = (text: string) => until(() => find(text), { what: `the line "${text}"` })
  await logged('"msg":"ready"')
  const url = /http:[^"]+/.exec((await logged('Server listening at')).toString())?.[0] ?? ''
  const exited = once(child, 'close')
  return {
    send: (allowed: number) =>
      fetch(`${url}/boundary/logs`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(batch({ logs: logs(allowed, 0) })),
      }),
    signalGroup: (name: NodeJS.Signals) => process.kill(-pid, name),
    logged,
    lines,
    exited,
  }
}

const isRunning = (child: ChildProcess) => child.exitCode === null && child.signalCode === null

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  t.test(`${signal} to the process group of npm start loses nothing`, async (t) => {
    const { url, sql } = await testDatabase(t)
    const service = await startByNpm(t, url)
    t.equal((await service.send(3)).status, 202)
    service.signalGroup(signal)
    service.signalGroup(signal)
    await service.logged('"msg":"shut down"')
    await service.exited
    t.equal(await allowedInDatabase(sql), 3)
  })

t.test('any number of signals while the final flush waits loses nothing', async (t) => {
  const { url, sql } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url })
  t.equal((await service.send({ logs: logs(1, 0) })).status, 202)
  await (await service.get('/telemetry/snapshot')).body?.cancel() // flushes, so that there is a row to lock
  t.equal((await service.send({ logs: logs(4, 0) })).status, 202)
  await whileFlushWaits(sql, async () => {
    service.signal('SIGINT')
    await service.log('shutting down')
    await untilBlocked(sql)
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGTERM', 'SIGUSR2'] as const)
      service.signal(name)
  })
  t.strictSame(await service.exited, { code: 0, signal: null })
  t.equal(await allowedInDatabase(sql), 5)
})

t.test('with SHUTDOWN_DELAY_MS a replica that got SIGTERM serves, but is not ready', async (t) => {
  const { url, sql } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url, SHUTDOWN_DELAY_MS: '1500' })
  service.signal('SIGTERM')
  await service.untilReady(503)
  t.equal((await service.send({ logs: logs(2, 0) })).status, 202)
  t.strictSame(await service.exited, { code: 0, signal: null })
  t.equal(await allowedInDatabase(sql), 2)
})

/** When the process gets SIGWINCH, which nothing else listens to, it writes to stdout until no more fits. */
const FILLER = `data:text/javascript,${encodeURIComponent(`
  import { writeSync } from 'node:fs'
  process.on('SIGWINCH', () => {
    try {
      for (;;) writeSync(1, 'filler'.repeat(1_000))
    } catch ({ code }) {
      writeSync(2, code)
    }
  })`)}`

t.test('a reader of stdout that stops holds up neither requests nor the end', async (t) => {
  const { url, sql } = await testDatabase(t)
  const child = spawn(process.execPath, ['--import', FILLER, SERVER], {
    cwd: t.testdir(),
    env: {
      DATABASE_URL: url,
      PORT: '0',
      FLUSH_INTERVAL_MS: '3600000',
      SNAPSHOT_INTERVAL_MS: '0',
      LOG_LEVEL: 'info',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  let text = ''
  const read = (chunk: Buffer) => {
    text += chunk
  }
  let errors = ''
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk
  })
  child.stdout.on('data', read)
  await until(() => text.includes('"msg":"ready"') && text.includes('Server listening at'), {
    what: 'the replica to listen and to be ready',
  })
  const base = /Server listening at (http:[^"]+)/.exec(text)?.[1]
  child.stdout.off('data', read).pause()
  child.kill('SIGWINCH')
  await until(() => errors !== '', { what: 'stdout to be full' })
  t.equal(errors, 'EAGAIN')

  for (let taken = 0; taken < 20; taken++) {
    const response = await fetch(`${base}/telemetry/snapshot`, { method: 'POST' })
    await response.body?.cancel()
    t.equal(response.status, 200)
  }
  const accepted = await fetch(`${base}/boundary/logs`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(batch({ logs: logs(7, 0) })),
  })
  t.equal(accepted.status, 202)
  child.kill('SIGTERM')
  await until(async () => (await allowedInDatabase(sql)) === 7, { what: 'the final flush' })
  child.stdout.on('data', read).resume()
  const [code] = await once(child, 'close')
  t.equal(code, 0)
  t.equal(text.match(/"msg":"snapshot taken"/g)?.length, 20, 'what was logged meanwhile arrives')
  t.match(text, /"msg":"shut down"/, 'the last lines arrive, as there is a reader again')
})
