// Error responses: one shape for all of them, and every code in the table of docs/api.md.

import { readFile } from 'node:fs/promises'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import * as errors from '../../src/http/errors.js'
import { testDatabase } from '../helpers/database.js'
import { tableAfter } from '../helpers/markdown.js'
import { exchange } from '../helpers/raw.js'
import { batch, startReplica } from '../helpers/replica.js'

const MALFORMED_TYPES = ['nonsense', 'a/b/c', '/']

/** Sends the head of a request; returns the status, the headers and the JSON body of the response. */
async function ask(url: string, head: string) {
  const [top = '', body = ''] = (await exchange(url, head)).split('\r\n\r\n')
  const [statusLine = '', ...lines] = top.split('\r\n')
  const headers = new Map(lines.map((line) => [line.split(': ')[0]?.toLowerCase(), line.split(': ')[1]]))
  return { status: Number(statusLine.split(' ')[1]), headers, error: JSON.parse(body) as unknown }
}

t.test('an error before routing has the same shape as all others', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, { REQUEST_TIMEOUT_MS: '300' })
  const end = 'HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n'
  for (const [head, statusCode, code, error] of [
    [`GET /%zz ${end}\r\n`, 400, 'FST_ERR_BAD_URL', 'Bad Request'],
    [`GET /telemetry/snapshots/${'x'.repeat(101)} ${end}\r\n`, 400, 'FST_ERR_VALIDATION', 'Bad Request'],
    [`GET /telemetry/snapshots/${'x'.repeat(9_000)} ${end}\r\n`, 400, 'FST_ERR_VALIDATION', 'Bad Request'],
    [`GET /nowhere ${end}\r\n`, 404, 'NOT_FOUND', 'Not Found'],
    [
      `GET / ${end}x: ${'x'.repeat(20_000)}\r\n\r\n`,
      431,
      'HEADERS_TOO_LARGE',
      'Request Header Fields Too Large',
    ],
    [
      `GET / ${end}${'x: y\r\n'.repeat(200)}\r\n`,
      431,
      'HEADERS_TOO_LARGE',
      'Request Header Fields Too Large',
    ],
    ['GET / HTTP/1.1\r\nconnection: close\r\n\r\n', 400, 'INVALID_HTTP', 'Bad Request'],
    [`GET /nowhere ${end}expect: nothing\r\n\r\n`, 404, 'NOT_FOUND', 'Not Found'],
    ['nonsense\r\n\r\n', 400, 'INVALID_HTTP', 'Bad Request'],
    ['POST /boundary/logs HTTP/1.1\r\nhost: localhost\r\n', 408, 'REQUEST_TIMEOUT', 'Request Timeout'],
  ] as const) {
    const response = await ask(replica.url, head)
    t.equal(response.status, statusCode, head.slice(0, 60))
    t.match(response.headers.get('content-type'), /^application\/json/)
    t.match(response.error, { statusCode, code, error, message: /./ })
    t.strictSame(Object.keys(response.error ?? {}), ['statusCode', 'code', 'error', 'message'])
  }
})

t.test('a method that a path does not have is 405 with Allow', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const [method, path, allow] of [
    ['GET', '/boundary/logs', 'POST'],
    ['OPTIONS', '/boundary/logs', 'POST'],
    ['PROPFIND', '/boundary/logs', 'POST'],
    ['DELETE', '/telemetry/snapshot', 'HEAD, GET, POST'],
    ['PATCH', '/telemetry/snapshots/anything', 'HEAD, GET'],
    ['GET', '/telemetry/snapshots/anything/redeliver', 'POST'],
    ['PUT', '/', 'HEAD, GET'],
    ['POST', '/docs', 'HEAD, GET'],
    ['POST', '/-/ready', 'HEAD, GET'],
  ] as const) {
    const response = await fetch(replica.url + path, { method })
    t.equal(response.status, 405, `${method} ${path}`)
    const allowed = response.headers.get('allow')?.split(', ').sort()
    t.strictSame(allowed, allow.split(', ').sort(), `${method} ${path}`)
    t.match(await response.json(), {
      statusCode: 405,
      code: 'METHOD_NOT_ALLOWED',
      error: 'Method Not Allowed',
    })
  }
  t.match(
    await (await replica.get('/metrics')).text(),
    'http_request_duration_seconds_count{method="PATCH",route="/telemetry/snapshots/:id",status_code="405"} 1\n',
  )
})

t.test(
  '415 names in Accept the types, and in Accept-Encoding the encodings, that are supported',
  async (t) => {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url)
    for (const type of ['text/plain', 'application/xml', ...MALFORMED_TYPES]) {
      const response = await replica.send({}, { 'content-type': type })
      t.equal(response.status, 415, type)
      t.equal(response.headers.get('accept'), 'application/json, application/x-protobuf')
      t.equal(
        response.headers.get('accept-encoding'),
        null,
        'which would say that the encoding is the problem',
      )
      t.match(await response.json(), { code: 'UNSUPPORTED_MEDIA_TYPE', message: /use application\/json/ })
    }
    for (const encoding of ['br', 'gzip, gzip', 'identity, deflate']) {
      const response = await replica.send({}, { 'content-encoding': encoding })
      t.equal(response.status, 415, encoding)
      t.equal(response.headers.get('accept-encoding'), 'gzip')
      t.equal(response.headers.get('accept'), null)
      t.match(await response.json(), { code: 'UNSUPPORTED_ENCODING', message: /use gzip or none/ })
    }
  },
)

t.test('an empty Content-Encoding and identity are none, next to gzip, too', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const packed = gzipSync(JSON.stringify(batch()))
  for (const encoding of ['', 'identity', 'Identity', 'identity, identity', ','])
    t.equal((await replica.send({}, { 'content-encoding': encoding })).status, 202, encoding)
  for (const encoding of ['gzip', 'gzip, identity', 'identity,gzip', 'X-GZIP', ',gzip'])
    t.equal(
      (
        await fetch(`${replica.url}/boundary/logs`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', 'content-encoding': encoding },
          body: packed,
        })
      ).status,
      202,
      encoding,
    )
})

t.test('the Content-Type of a request without a body is ignored', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const type of MALFORMED_TYPES) {
    t.equal((await replica.post('/telemetry/snapshot', { 'content-type': type })).status, 200, type)
    const response = await replica.post('/boundary/logs', { 'content-type': type })
    t.equal(response.status, 400, type)
    t.match(await response.json(), { code: 'INVALID_BODY' })
  }
})

t.test('the error for a wrong value of an enumeration lists the valid ones', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const response = await replica.get('/telemetry/usage?by=year')
  t.equal(response.status, 400)
  t.match(await response.json(), { message: 'querystring/by must be one of hour, day, week, month' })
})

t.test('docs/api.md lists every code, with its status', async (t) => {
  const page = await readFile(new URL('../../docs/api.md', import.meta.url), 'utf8')
  const documented = tableAfter(page, 'Errors').flatMap(([status = '', codes = '']) =>
    codes.split(', ').map((code) => `${status} ${code.replaceAll('`', '')}`),
  )
  const own = Object.values(errors).flatMap((error) => {
    if (typeof error !== 'function') return []
    const { statusCode, code } = new error()
    return [`${statusCode} ${code}`]
  })
  const fastify = ['400 FST_ERR_BAD_URL', '400 FST_ERR_CTP_INVALID_CONTENT_LENGTH', '400 FST_ERR_VALIDATION']
  const others = ['400 BAD_REQUEST', '500 INTERNAL_ERROR', '413 FST_ERR_CTP_BODY_TOO_LARGE']
  t.strictSame(new Set(documented), new Set([...own, ...fastify, ...others]))
  for (const code of errors.FASTIFY_CODES)
    t.ok([...fastify, ...others].some((known) => known.endsWith(` ${code}`)))
})
