// Which requests are answered by their Host and Origin: what a web page can send to a service without tokens, and what not.

import t from 'tap'
import { testDatabase } from '../helpers/database.js'
import { exchange } from '../helpers/raw.js'
import { type Replica, startReplica } from '../helpers/replica.js'

const ADMIN = 'admin-token-admin-token-1'
const TOKENS = { AGENT_TOKENS: 'agent-token-agent-token-1', ADMIN_TOKENS: ADMIN }

/** The status of a request with exactly these headers. */
async function statusOf(replica: Replica, request: string, headers: string[]): Promise<number> {
  const lines = [`${request} HTTP/1.1`, ...headers, 'connection: close', '', '']
  return Number((await exchange(replica.url, lines.join('\r\n'))).split(' ')[1])
}

t.test('without tokens, only requests to a loopback name or address are answered', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const name of ['localhost', 'LocalHost', '127.0.0.1', '127.8.9.10', '[::1]'])
    for (const host of [name, `${name}:3000`])
      t.equal(await statusOf(replica, 'GET /telemetry/snapshot', [`host: ${host}`]), 200, host)

  for (const host of [
    ...[
      '',
      'rebound.example',
      'rebound.example:3000',
      'localhost.rebound.example',
      '127.0.0.1.rebound.example',
    ],
    ...['0.0.0.0', '[::]', '10.0.0.1', '127.0.0.1:3000:3000', '127.0.0.1@rebound.example', '[::1', '::1'],
  ])
    for (const request of [
      ...['GET /telemetry/snapshot', 'POST /telemetry/snapshot', 'POST /boundary/logs', 'GET /metrics'],
      ...['GET /', 'GET /-/healthy', 'GET /nowhere', 'PUT /boundary/logs'],
    ])
      t.equal(
        await statusOf(replica, request, [`host: ${host}`, 'content-length: 0']),
        403,
        `${request}, ${host}`,
      )
  t.match(
    await exchange(replica.url, 'GET /telemetry/snapshot HTTP/1.0\r\n\r\n'),
    /^HTTP\/1.1 403 .*use http:\/\/127\.0\.0\.1, or set tokens"}$/s,
    'a request without Host',
  )
})

t.test('without tokens, requests from a page of another host are rejected', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const host = 'localhost:3000'
  const send = (origin: string) =>
    statusOf(replica, 'POST /telemetry/snapshot', [`host: ${host}`, `origin: ${origin}`, 'content-length: 0'])
  for (const origin of [`http://${host}`, `https://${host}`]) t.equal(await send(origin), 200, origin)
  for (const origin of [
    ...[
      'null',
      'http://rebound.example',
      'http://localhost',
      'http://localhost:3001',
      'http://127.0.0.1:3000',
    ],
    ...[`ftp://${host}`, `http://${host}/`, `http://${host}, http://${host}`, `http://http://${host}`],
  ])
    t.equal(await send(origin), 403, origin)
})

t.test('with tokens, the name by which the service is reached does not matter', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, TOKENS)
  for (const headers of [['host: usage.example'], ['host: usage.example', 'origin: https://other.example']])
    t.equal(
      await statusOf(replica, 'GET /telemetry/snapshot', [...headers, `authorization: Bearer ${ADMIN}`]),
      200,
    )
})

t.test('a request with two Host headers is 400, with and without tokens', async (t) => {
  for (const env of [{}, TOKENS]) {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url, env)
    for (const hosts of [
      ['host: localhost', 'host: localhost'],
      ['host: localhost', 'x: y', 'HOST: rebound.example'],
    ])
      t.equal(await statusOf(replica, 'GET /-/healthy', hosts), 400, hosts.join())
  }
})
