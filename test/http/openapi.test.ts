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
  parameters?: { name: string; in: string; required?: boolean }[]
  responses: Record<
    string,
    {
      description?: string
      headers?: Record<string, unknown>
      content: Record<string, { schema: { $ref?: string } }>
      links?: Record<string, { operationId: string; parameters: Record<string, string> }>
    }
  >
}
interface Document {
  openapi: string
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, { properties?: Record<string, { type?: unknown }> }> }
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
    'POST /boundary/logs': '202 400 401 403 408 413 415 429 503 504 default',
    'GET /telemetry/snapshot': '200 401 403 503 default',
    'POST /telemetry/snapshot': '200 401 403 409 503 default',
    'GET /telemetry/snapshots': '200 400 401 403 503 default',
    'GET /telemetry/snapshots/{id}': '200 400 401 403 404 503 default',
    'POST /telemetry/snapshots/{id}/redeliver': '202 400 401 403 404 409 503 default',
    'GET /telemetry/usage': '200 400 401 403 503 default',
    'GET /telemetry/replicas': '200 401 403 503 default',
    'GET /telemetry/status': '200 401 403 503 default',
    'GET /-/healthy': '200 503 default',
    'GET /-/ready': '200 503 default',
    'GET /metrics': '200 401 503 default',
    'GET /openapi.json': '200 503 default',
  })
  for (const operations of Object.values(paths))
    for (const { operationId, summary, security, responses } of Object.values(operations)) {
      t.ok(operationId && summary && security)
      for (const [status, { description, headers }] of Object.entries(responses)) {
        t.ok(description && description !== 'Default Response', `${operationId} ${status} is described`)
        if (['429', '503'].includes(status)) t.ok(headers?.['Retry-After'], `${operationId} ${status}`)
        if (status === '401') t.ok(headers?.['WWW-Authenticate'], `${operationId} ${status}`)
      }
    }
})

t.test('it declares what is optional, and the types of every response', async (t) => {
  const { paths, components } = await committed()
  const operations = Object.values(paths).flatMap((path) => Object.values(path))
  const required = operations.flatMap(({ parameters = [] }) => parameters.filter((each) => each.required))
  t.strictSame(
    required.map(({ name, in: place }) => `${place} ${name}`),
    ['path id', 'path id'],
  )
  const types = (path: string, status: string) =>
    Object.keys(paths[path]?.get?.responses[status]?.content ?? {}).join(' ')
  t.equal(types('/metrics', '200'), 'text/plain')
  t.equal(types('/metrics', '401'), 'application/json')
  t.equal(types('/metrics', '503'), 'application/json')
  t.equal(types('/telemetry/usage', '200'), 'application/json text/csv')
  t.strictSame(paths['/metrics']?.get?.security, [{ metrics: [] }, {}])
  t.equal(components.schemas.SnapshotPreview?.properties?.id?.type, 'null')
  t.equal(components.schemas.Snapshot?.properties?.id?.type, 'string')
  t.equal(components.schemas.RecordedSnapshot?.properties?.id?.type, 'string')
})

t.test('every list has a maximum length', async (t) => {
  let lists = 0
  const visit = (value: unknown, path: string): void => {
    if (typeof value !== 'object' || value === null) return
    if ('type' in value && value.type === 'array') {
      lists++
      t.ok('maxItems' in value, path)
    }
    for (const [name, child] of Object.entries(value)) visit(child, `${path}/${name}`)
  }
  visit(await committed(), '')
  t.ok(lists >= 5, `${lists} lists`)
})

t.test('a snapshot links to its reads, and a page to the next', async (t) => {
  const { paths } = await committed()
  t.strictSame(paths['/telemetry/snapshot']?.post?.responses['200']?.links, {
    snapshot: { operationId: 'getSnapshot', parameters: { id: '$response.body#/id' } },
    redelivery: { operationId: 'redeliverSnapshot', parameters: { id: '$response.body#/id' } },
  })
  const { snapshot, nextPage } = paths['/telemetry/snapshots']?.get?.responses['200']?.links ?? {}
  t.strictSame(snapshot?.parameters, { id: '$response.body#/snapshots/0/id' })
  t.strictSame(nextPage?.parameters, { before: '$response.body#/next' })
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
