// The committed OpenAPI document: it matches the routes, is complete, and is served.

import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { testDatabase } from '../helpers/database.js'
import { json, startReplica } from '../helpers/replica.js'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../../', import.meta.url))
const file = join(root, 'openapi/openapi.json')

interface Operation {
  operationId?: string
  summary?: string
  security?: unknown[]
  responses: Record<string, { description?: string; headers?: Record<string, unknown> }>
}
interface Document {
  openapi: string
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, unknown> }
}

const committed = async () => JSON.parse(await readFile(file, 'utf8')) as Document

t.test('openapi.json matches the routes, and is served unchanged', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  t.strictSame(await json<Document>(replica.get('/openapi.json')), await committed(), 'npm run openapi')
})

t.test('the document contains every route, each with its errors', async (t) => {
  const { openapi, paths } = await committed()
  t.equal(openapi, '3.1.0')
  const statuses = Object.fromEntries(
    Object.entries(paths).flatMap(([path, operations]) =>
      Object.entries(operations).map(([method, { responses }]) => [
        `${method.toUpperCase()} ${path}`,
        Object.keys(responses).join(' '),
      ]),
    ),
  )
  t.strictSame(statuses, {
    'POST /boundary/logs': '202 400 401 403 408 413 415 429 503 504',
    'GET /telemetry/snapshot': '200 401 403 503',
    'POST /telemetry/snapshot': '200 401 403 409 503',
    'GET /telemetry/snapshots': '200 400 401 403 503',
    'GET /telemetry/snapshots/{id}': '200 400 401 403 404 503',
    'POST /telemetry/snapshots/{id}/redeliver': '202 400 401 403 404 503',
    'GET /telemetry/usage': '200 400 401 403 503',
    'GET /telemetry/replicas': '200 401 403 503',
    'GET /-/healthy': '200 503',
    'GET /-/ready': '200 503',
    'GET /metrics': '200 401 503',
    'GET /openapi.json': '200',
  })
  for (const operations of Object.values(paths))
    for (const { operationId, summary, security, responses } of Object.values(operations)) {
      t.ok(operationId && summary && security)
      for (const [status, { description, headers }] of Object.entries(responses)) {
        t.ok(description && description !== 'Default Response', `${operationId} ${status} is described`)
        if (['409', '429'].includes(status)) t.ok(headers?.['Retry-After'])
      }
    }
})

t.test('an OpenAPI linter finds no problem', async (t) => {
  const require = createRequire(import.meta.url)
  const cli = join(dirname(require.resolve('@redocly/cli/package.json')), 'bin/cli.js')
  const env = { ...process.env, REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true' }
  await t.resolves(run(process.execPath, [cli, 'lint', file], { cwd: root, env }))
})

t.test('the API is browsable at /docs, with resources of this host only', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const page = await replica.get('/docs')
  t.equal(page.status, 200)
  t.match(page.headers.get('content-type'), /^text\/html/)
  t.match(page.headers.get('content-security-policy'), /default-src 'self'/)
  const html = await page.text()
  for (const [, source = ''] of html.matchAll(/(?:src|href)="([^"]+)"/g)) {
    const target = new URL(source, `${replica.url}/docs/`)
    t.equal(target.origin, replica.url, source)
    t.equal((await fetch(target)).status, 200, source)
  }
})
