// The alerts: promtool finds no fault in them, and their unit tests show each of them fire, and keep silent.

import { execFileSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { parse } from 'yaml'
import { testDatabase } from '../helpers/database.js'
import { parseQuery } from '../helpers/promql.js'
import { logs, startReplica } from '../helpers/replica.js'

const FOLDER = fileURLToPath(new URL('../../deploy/prometheus/', import.meta.url))
const skip = hasPromtool() ? false : 'promtool, which comes with Prometheus, is not installed'

/** What promtool says; throws that if it finds a fault. */
function promtool(args: string[], input = ''): string {
  return execFileSync('promtool', args, { cwd: FOLDER, input, encoding: 'utf8', stdio: 'pipe' })
}

function hasPromtool(): boolean {
  try {
    promtool(['--version'])
    return true
  } catch {
    return false
  }
}

async function read<T>(file: string): Promise<T> {
  return parse(await readFile(FOLDER + file, 'utf8')) as T
}

t.test('promtool accepts the rules and the configuration that loads them', { skip }, async (t) => {
  t.match(promtool(['check', 'rules', 'alerts.yml']), /SUCCESS: \d+ rules found/)
  t.match(promtool(['check', 'config', 'prometheus.yml']), /SUCCESS: 1 rule files found/)
})

t.test('the unit tests of the rules pass', { skip }, async (t) => {
  t.match(promtool(['test', 'rules', 'alerts.test.yml']), 'SUCCESS')
})

t.test('they show every alert firing, and with its data there but not firing', async (t) => {
  const { groups } = await read<{ groups: { rules: { alert: string }[] }[] }>('alerts.yml')
  const { tests } = await read<{
    tests: { promql_expr_test: { expr: string; exp_samples: { labels: string }[] }[] }[]
  }>('alerts.test.yml')
  const cases = tests.flatMap((one) => one.promql_expr_test)
  const firing = cases.flatMap(({ exp_samples }) => exp_samples.map(({ labels }) => nameIn(labels)))
  const silent = cases.flatMap(({ expr, exp_samples }) => (exp_samples.length === 0 ? [nameIn(expr)] : []))
  const alerts = groups.flatMap(({ rules }) => rules.map(({ alert }) => alert))
  t.ok(alerts.length > 10)
  for (const alert of alerts) {
    t.ok(firing.includes(alert), `${alert} fires`)
    t.ok(
      silent.some((name) => new RegExp(`^${name}$`).test(alert)),
      `${alert} keeps silent`,
    )
  }
})

/** The value that a selector of the series ALERTS wants of its label alertname. */
function nameIn(selector: string): string {
  const wants = parseQuery(selector).selectors.flatMap((one) => one.wants)
  return wants.find(([label]) => label === 'alertname')?.[1] ?? ''
}

t.test('promtool finds no fault in what a replica exports', { skip }, async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  await replica.send({ logs: logs(1, 1) })
  await replica.post('/telemetry/snapshot')
  const metrics = await (await replica.get('/metrics')).text()
  t.equal(promtool(['check', 'metrics'], metrics), '')
  t.throws(() => promtool(['check', 'metrics'], 'badName{} 1\n'), 'it would find one')
})
