// DNS rebinding in a real browser: without tokens, a page of another name neither reads nor changes anything.

import { once } from 'node:events'
import { createServer } from 'node:http'
import type { Browser, Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { startChromium, withoutChromium } from '../helpers/chromium.js'
import { testDatabase } from '../helpers/database.js'
import { freePort } from '../helpers/postgres.js'
import { startProcess } from '../helpers/process.js'
import { batch } from '../helpers/replica.js'

const skip = withoutChromium()
t.setTimeout(300_000) // starting a browser takes long on a busy machine
let browser: Browser
t.before(async () => {
  // The second name has several addresses: those of localhost.
  if (!skip)
    browser = await startChromium(t, ['MAP rebound.example 127.0.0.1', 'MAP several.example localhost'])
})

/** Loads the attacker's page under `name` from a server on `address`, which then ends. */
async function loadPage(t: Test, name: string, port: number, address: string): Promise<Page> {
  const attacker = createServer((_request, response) => {
    response.setHeader('content-type', 'text/html').setHeader('connection', 'close').end('<h1>Hello</h1>')
  })
  attacker.listen(port, address)
  await once(attacker, 'listening')
  const page = await browser.newPage()
  t.teardown(() => page.close())
  await page.goto(`http://${name}:${port}/`)
  t.equal(await page.textContent('h1'), 'Hello')
  attacker.close()
  attacker.closeAllConnections()
  await once(attacker, 'close')
  return page
}

/** What the page's scripts get from requests to the service; an opaque response has the status 0. */
async function attempt(page: Page, base: string): Promise<number[]> {
  const body = JSON.stringify(batch())
  const requests: [string, RequestInit][] = [
    ['/telemetry/snapshot', {}],
    ['/telemetry/snapshot', { method: 'POST' }],
    ['/telemetry/replicas', {}],
    ['/boundary/logs', { method: 'POST', body, headers: { 'content-type': 'application/json' } }],
    ['/boundary/logs', { method: 'POST', body, mode: 'no-cors' }],
    ['/metrics', {}],
    ['/', {}],
  ]
  return page.evaluate(
    async ([base, requests]) => {
      const statuses = []
      for (const [path, options] of requests)
        statuses.push(
          await fetch(base + path, options).then(
            ({ status }) => status,
            () => -1,
          ),
        )
      return statuses
    },
    [base, requests] as const,
  )
}

async function startOpen(t: Test, port: number) {
  const { url } = await testDatabase(t)
  const service = await startProcess(t, { DATABASE_URL: url, PORT: String(port) })
  const untouched = async (t: Test) => {
    t.hasStrict(await (await service.get('/telemetry/snapshot')).json(), { allowed_requests: 0 })
    t.hasStrict(await (await service.get('/telemetry/snapshots')).json(), { snapshots: [] })
  }
  return { service, untouched }
}

t.test('a page whose name is rebound to the service is answered 403', { skip }, async (t) => {
  const port = await freePort()
  const page = await loadPage(t, 'rebound.example', port, '127.0.0.1')
  const { untouched } = await startOpen(t, port)
  t.strictSame(await attempt(page, ''), Array(7).fill(403))
  await untouched(t)
})

t.test('a page whose name also has the address of the service is answered 403', { skip }, async (t) => {
  const port = await freePort()
  const { untouched } = await startOpen(t, port)
  const page = await loadPage(t, 'several.example', port, '::1')
  t.strictSame(await attempt(page, ''), Array(7).fill(403))
  await untouched(t)
})

t.test(
  'a page of another site that asks 0.0.0.0 or localhost reads and changes nothing',
  { skip },
  async (t) => {
    const port = await freePort()
    const page = await loadPage(t, 'rebound.example', await freePort(), '127.0.0.1')
    const { untouched } = await startOpen(t, port)
    for (const host of ['0.0.0.0', '127.0.0.1', 'localhost']) {
      const statuses = await attempt(page, `http://${host}:${port}`)
      t.ok(
        statuses.every((status) => status <= 0),
        `${host}: ${statuses}`,
      )
    }
    await untouched(t)
    const direct = await browser.newPage()
    t.teardown(() => direct.close())
    const response = await direct.goto(`http://0.0.0.0:${port}/`).catch(() => undefined)
    t.notOk(response?.ok(), '0.0.0.0 in the address bar is refused, by the browser or the service')
  },
)

t.test('the page of the service itself is served', { skip }, async (t) => {
  const { service } = await startOpen(t, await freePort())
  const page = await browser.newPage()
  t.teardown(() => page.close())
  await page.goto(`${service.url}/`)
  const statuses = await attempt(page, '')
  t.strictSame(
    statuses,
    [200, 200, 200, 202, 415, 200, 200],
    'the requests of these tests are otherwise valid',
  )
})
