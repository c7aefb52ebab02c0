// The alerts and the dashboard ask for nothing that a running replica does not export.

import { readFile } from 'node:fs/promises'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { testDatabase } from '../helpers/database.js'
import { parseQuery } from '../helpers/promql.js'
import { logs, startReplica } from '../helpers/replica.js'

/** Those that the scrape adds. */
const TARGET_LABELS = ['job', 'instance']

type Series = { name: string; labels: Record<string, string> }

/** What a replica exports that has accepted a batch and taken a snapshot, and what Prometheus adds for each target. */
async function exported(t: Test): Promise<Series[]> {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  t.equal((await replica.send({ logs: logs(1, 1) })).status, 202)
  await replica.post('/telemetry/snapshot')
  const text = await (await replica.get('/metrics')).text()
  const series = [...text.matchAll(/^(\w+)(?:{(.*)})? \S+$/gm)].map(([, name = '', labels = '']) => ({
    name,
    labels: Object.fromEntries(
      [...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, label, value]) => [label, value]),
    ),
  }))
  return [...series, { name: 'up', labels: {} }]
}

async function alerts(): Promise<Record<string, string>> {
  const { groups } = parse(await read('prometheus/alerts.yml')) as {
    groups: { rules: { alert: string; expr: string }[] }[]
  }
  return Object.fromEntries(groups.flatMap(({ rules }) => rules.map(({ alert, expr }) => [alert, expr])))
}

interface Panel {
  id: number
  title: string
  datasource?: { uid: string }
  targets?: { expr: string; legendFormat: string; datasource: { uid: string } }[]
}

async function dashboard() {
  return JSON.parse(await read('grafana/boundary-usage.json')) as {
    templating: { list: { name: string; type: string; definition?: string; datasource?: { uid: string } }[] }
    panels: Panel[]
  }
}

function read(path: string): Promise<string> {
  return readFile(new URL(`../../deploy/${path}`, import.meta.url), 'utf8')
}

t.test('every metric, label and value that an alert or a panel asks for is exported', async (t) => {
  const series = await exported(t)
  const board = await dashboard()
  const panels = board.panels.filter(({ targets }) => targets)
  t.ok(panels.length > 20)
  const queries = [
    ...Object.entries(await alerts()),
    ...panels.flatMap(({ title, targets = [] }) =>
      targets.map(({ expr, legendFormat }) => [title, expr, legendFormat] as const),
    ),
    ...board.templating.list.flatMap(({ name, definition }) => {
      const [, expr, label] = /^label_values\((.*), (\w+)\)$/.exec(definition ?? '') ?? []
      return expr && label ? [[name, expr, `{{${label}}}`] as const] : []
    }),
  ]
  for (const [title, expr, legend = ''] of queries) {
    const { selectors, labels } = parseQuery(expr)
    t.ok(selectors.length > 0, `${title} asks for something`)
    const known = new Set(TARGET_LABELS)
    for (const { name, wants } of selectors) {
      const found = series.filter((one) => one.name === name)
      t.ok(found.length > 0, `${title}: ${name} is exported`)
      for (const label of found.flatMap((one) => Object.keys(one.labels))) known.add(label)
      for (const [label, value] of wants)
        if (!TARGET_LABELS.includes(label))
          t.ok(
            found.some((one) => one.labels[label] === value),
            `${title}: ${name} has ${label}="${value}"`,
          )
    }
    const inLegend = [...legend.matchAll(/{{(\w+)}}/g)].map(([, label = '']) => label)
    for (const label of [...labels, ...inLegend])
      t.ok(known.has(label), `${title}: there is a label ${label}`)
  }
})

t.test('the dashboard can be imported: no source of data but its variable, no panel twice', async (t) => {
  const { templating, panels } = await dashboard()
  t.equal(templating.list[0]?.type, 'datasource')
  const uses = [...templating.list.slice(1), ...panels.flatMap(({ targets = [] }) => targets), ...panels]
  for (const { datasource } of uses) if (datasource) t.match(datasource.uid, /^\$\{datasource\}$/)
  t.equal(new Set(panels.map(({ id }) => id)).size, panels.length)
})
