// docs/operating.md says what the code does: its settings, its runbooks, the lines of the log that it quotes.

import { readdir, readFile } from 'node:fs/promises'
import type { TSchema } from '@sinclair/typebox'
import t from 'tap'
import { parse } from 'yaml'
import { SettingsSchema } from '../../src/config.js'
import { tableAfter } from '../helpers/markdown.js'

const ROOT = new URL('../../', import.meta.url)
const read = (path: string) => readFile(new URL(path, ROOT), 'utf8')
const manual = await read('docs/operating.md')

t.test('its table has every setting in order, with its default', async (t) => {
  const listed = tableAfter(manual, 'Settings').flatMap(([names = '', defaults = '']) => {
    const values = defaults.replaceAll('`', '').split(', ')
    return [...names.matchAll(/`(\w+)`/g)].map(([, name], i) => [name, values[i] ?? values[0]])
  })
  t.strictSame(
    listed,
    Object.entries<TSchema>(SettingsSchema.properties).map(([name, schema]) => [name, inWords(name, schema)]),
  )
})

function inWords(name: string, schema: TSchema): string {
  if (name === 'REPLICA_NAME') return 'host name'
  if (name === 'RATE_LIMIT_PER_MINUTE') return '0: off'
  return String(schema.default ?? 'none')
}

t.test('every alert leads to its runbook, and every runbook to an alert', async (t) => {
  const { groups } = parse(await read('deploy/prometheus/alerts.yml')) as {
    groups: {
      rules: { alert: string; labels: { severity: string }; annotations: Record<string, string> }[]
    }[]
  }
  const rules = groups.flatMap((group) => group.rules)
  for (const { alert, labels, annotations } of rules) {
    t.match(labels.severity, /^(critical|warning)$/)
    t.strictSame(Object.keys(annotations), ['summary', 'description', 'runbook'])
    t.equal(annotations.runbook, `docs/operating.md#${alert.toLowerCase()}`)
  }
  t.strictSame(
    [...manual.matchAll(/^### (BoundaryUsage\w+)$/gm)].map(([, name]) => name),
    rules.map(({ alert }) => alert),
  )
})

t.test('the lines of the log that it quotes are logged', async (t) => {
  const files = await readdir(new URL('src/', ROOT), { recursive: true })
  const code = await Promise.all(
    files.filter((name) => name.endsWith('.ts')).map((name) => read(`src/${name}`)),
  )
  const quoted = [...manual.matchAll(/"msg":"([^"]+)"/g)].map(([, text = '']) => text.replaceAll(/\s+/g, ' '))
  t.ok(quoted.length > 5)
  for (const text of quoted) t.ok(code.join('').includes(text), text)
})
