// A host name with several addresses: limits, timeouts and the shutdown apply to the requests of every address.

import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import t, { type Test } from 'tap'
import { buildApp } from '../../src/app.js'
import { parseConfig } from '../../src/config.js'
import { checkAddresses, listen } from '../../src/http/listen.js'
import { testDatabase } from '../helpers/database.js'
import { batch } from '../helpers/replica.js'

const HOSTS = ['127.0.0.1', '127.0.0.2']
const lookup = async () => HOSTS.map((address) => ({ address, family: 4 }))

async function startOnBoth(t: Test, env: Record<string, string>) {
  const { url, sql } = await testDatabase(t)
  const app = await buildApp(
    parseConfig({
      DATABASE_URL: url,
      LOG_LEVEL: 'silent',
      FLUSH_INTERVAL_MS: '3600000',
      SNAPSHOT_INTERVAL_MS: '0',
      ...env,
    }),
  )
  t.teardown(() => app.close())
  const port = await listen(app, 'two-addresses.test', 0, lookup)
  await app.database.prepared
  return { app, port, sql }
}

const send = (host: string, port: number) =>
  fetch(`http://${host}:${port}/boundary/logs`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', connection: 'close' },
    body: JSON.stringify(batch()),
  }).then(({ status }) => status)

t.test('requests under way on every address are finished and counted at shutdown', async (t) => {
  const { app, port, sql } = await startOnBoth(t, { ACK: 'durable' })
  for (const host of HOSTS) t.equal(await send(host, port), 202, host)
  let waiting: Promise<number>[] = []
  let closed: Promise<void> | undefined
  await sql.begin(async (tx) => {
    await tx`select from boundary_usage_stats for update`
    const tracked = app.counting.tracker.unflushed.allowed
    waiting = HOSTS.flatMap((host) => Array.from({ length: 20 }, () => send(host, port)))
    while (app.counting.tracker.unflushed.allowed < tracked + 40) await new Promise((r) => setTimeout(r, 5))
    closed = app.close()
    await once(app.shutdown.signal, 'abort')
  })
  await closed
  t.strictSame(await Promise.all(waiting), Array(40).fill(202))
  const [row] = await sql`select allowed_requests::int from boundary_usage_stats`
  t.equal(row?.allowed_requests, 42)
})

t.test('a client that never finishes its request is cut off at shutdown on every address', async (t) => {
  const { app, port } = await startOnBoth(t, { SHUTDOWN_TIMEOUT_MS: '400' })
  const ends = HOSTS.map(async (host) => {
    const socket = connect(port, host)
    socket.write('POST /boundary/logs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{')
    await once(socket, 'connect')
    return once(socket.resume(), 'close')
  })
  await Promise.all(HOSTS.map((host) => fetch(`http://${host}:${port}/-/healthy`)))
  await app.close()
  await t.resolves(Promise.all(ends))
})

t.test('an address in use prevents the start', async (t) => {
  const occupied = createServer().listen(0, '127.0.0.2')
  await once(occupied, 'listening')
  t.teardown(() => occupied.close())
  const address = occupied.address()
  if (typeof address !== 'object' || address === null) throw new Error('no port')
  const app = await buildApp(
    parseConfig({ DATABASE_URL: 'postgres://127.0.0.1:1/none', LOG_LEVEL: 'silent' }),
  )
  app.database.prepared.catch(() => {})
  t.teardown(() => app.close())
  await t.rejects(listen(app, 'two-addresses.test', address.port, lookup), {
    message: `cannot listen on 127.0.0.2:${address.port}: the port is in use: stop the other process or change PORT`,
  })
})

t.test('addresses that this machine does not have are left out', async (t) => {
  const app = await buildApp(
    parseConfig({ DATABASE_URL: 'postgres://127.0.0.1:1/none', LOG_LEVEL: 'silent' }),
  )
  app.database.prepared.catch(() => {})
  t.teardown(() => app.close())
  const port = await listen(app, 'test', 0, async () => [
    { address: '203.0.113.1', family: 4 },
    { address: '127.0.0.1', family: 4 },
    { address: '203.0.113.2', family: 4 },
  ])
  t.equal((await fetch(`http://127.0.0.1:${port}/-/healthy`)).status, 200)
})

t.test('"::" is every address, IPv4 included, also on a machine without IPv6', async (t) => {
  const { url } = await testDatabase(t)
  // 192.0.2.1 (TEST-NET-1) stands for the address that the machine does not have.
  for (const lookup of [undefined, async () => [{ address: '192.0.2.1', family: 4 }]]) {
    const app = await buildApp(
      parseConfig({
        DATABASE_URL: url,
        LOG_LEVEL: 'silent',
        SNAPSHOT_INTERVAL_MS: '0',
      }),
    )
    const port = await listen(app, '::', 0, lookup)
    t.equal((await fetch(`http://127.0.0.1:${port}/-/healthy`)).status, 200)
    if (lookup === undefined) {
      await t.rejects(checkAddresses('::', port), { message: /the port is in use/ })
    }
    await app.close()
    await t.resolves(checkAddresses('::', port, lookup))
  }
})
