// The status page in a browser.

import { randomUUID } from 'node:crypto'
import type { Browser } from 'playwright-core'
import t from 'tap'
import { startProxy } from '../faults/proxy.js'
import { startChromium, withoutChromium } from '../helpers/chromium.js'
import { lockSnapshots, testDatabase } from '../helpers/database.js'
import { recordSnapshot } from '../helpers/history.js'
import {
  ADMIN,
  asAdmin,
  asAgent,
  enter,
  focused,
  isWide,
  openPage,
  says,
  shown,
  TOKENS,
  text,
  upToDate,
} from '../helpers/page.js'
import { freePort } from '../helpers/postgres.js'
import { startProcess } from '../helpers/process.js'
import { deniedLog, json, logs, type SnapshotJson, startReplica } from '../helpers/replica.js'

const HOUR_MS = 3_600_000

const skip = withoutChromium()
t.setTimeout(300_000) // starting a browser takes long on a busy machine
let browser: Browser
t.before(async () => {
  if (!skip) browser = await startChromium(t)
})

t.test(
  'the page asks for a token, explains why one is rejected, and keeps it only in memory unless asked to',
  { skip },
  async (t) => {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url, TOKENS)
    const page = await openPage(t, browser, replica.url)
    await says(page, 'status', 'Admin token required')
    t.equal(await text(page, 'rejection'), '', 'nothing has been rejected yet')
    for (const [token, reason] of [
      ['wrong-token-wrong-token-1', /Unknown token/],
      ['no header can hold this: é', /Unknown token/],
      [TOKENS.AGENT_TOKENS, /is an agent token/],
    ] as const) {
      await enter(page, token)
      await says(page, 'rejection', reason)
      t.equal(await focused(page), 'token', 'the field is ready for another token')
      t.notOk(await page.locator('#main').isVisible())
    }
    await enter(page, ADMIN)
    await upToDate(page)
    const kept = await page.evaluate(`(async () => JSON.stringify([
    location.href, document.cookie, history.state, { ...localStorage }, { ...sessionStorage },
    await indexedDB.databases(), await caches.keys(), document.documentElement.outerHTML,
    document.getElementById('token').value]))()`)
    t.notMatch(kept, /admin-token/)

    await page.reload()
    await says(page, 'status', 'Admin token required')
    await page.getByLabel('Keep it').check()
    await enter(page, ADMIN)
    await upToDate(page)
    await page.reload()
    await upToDate(page)
    t.equal(await page.evaluate('Object.values(sessionStorage).join()'), ADMIN)
    t.equal(await page.evaluate('JSON.stringify(localStorage) + document.cookie'), '{}')
    await page.getByRole('button', { name: 'Forget token' }).click()
    await says(page, 'status', 'Admin token required')
    t.equal(await page.evaluate('Object.values(sessionStorage).join()'), '')
  },
)

t.test(
  'an open service needs no token; with nothing counted, the page shows a command that sends a batch',
  { skip },
  async (t) => {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url)
    await replica.post('/telemetry/snapshot') // an empty one, as the schedule takes them
    const page = await openPage(t, browser, replica.url)
    await upToDate(page)
    t.notOk(await page.locator('#token-form').isVisible())
    const command = await text(page, 'curl')
    t.match(command, `${replica.url}/boundary/logs`)
    t.notMatch(command, /AGENT_TOKEN/)
    const body = /-d '(.*)'$/s.exec(command)?.[1] ?? ''
    t.equal((await replica.send(JSON.parse(body))).status, 202, 'the command sends a valid batch')
    await page.clock.fastForward(15_000)
    await says(page, 'now-allowed', /^1$/)
    t.notOk(await page.locator('#first').isVisible(), 'the command is hidden once something is counted')

    const { url: other } = await testDatabase(t)
    const closed = await openPage(t, browser, (await startReplica(t, other, TOKENS)).url)
    await enter(closed, ADMIN)
    await upToDate(closed)
    t.match(await text(closed, 'curl'), 'curl -H "Authorization: Bearer $AGENT_TOKEN" -H')
  },
)

t.test('the page shows what the API returns', { skip }, async (t) => {
  const { url, sql } = await testDatabase(t)
  const at = (hours: number) => new Date(Date.now() - hours * HOUR_MS).toISOString()
  await recordSnapshot(sql, at(50), ['a', 'z'])
  await recordSnapshot(sql, at(5), ['a', 'b'])
  await recordSnapshot(sql, at(0.01), ['b', 'c', 'd'])
  await sql`update telemetry_snapshots set delivery_state = 'dead', delivery_attempts = 30, delivery_error = 'status 500'
    where unique_users = 3`
  await sql`update telemetry_snapshots set missing_requests = 4, recovered_requests = 2 where unique_users = 3`
  const replica = await startReplica(t, url, { ...TOKENS, REPLICA_NAME: '<b>one</b>' })
  await replica.send({ logs: logs(900, 100) }, asAgent)
  await replica.send({ logs: logs(334, 0) }, asAgent)
  const repeated = {
    logs: [{ ...deniedLog, sequence_number: 0 }],
    session_id: randomUUID(),
    workspace_id: randomUUID(),
  }
  for (let n = 0; n < 3; n++) await replica.send(repeated, asAgent)
  const page = await openPage(t, browser, replica.url)
  await enter(page, ADMIN)
  await upToDate(page)

  const now = await json<SnapshotJson>(replica.get('/telemetry/snapshot', asAdmin))
  t.equal(await text(page, 'now-allowed'), shown(now.allowed_requests))
  t.equal(await text(page, 'now-allowed'), '1,234')
  t.equal(await text(page, 'now-denied'), shown(now.denied_requests))
  t.equal(await text(page, 'now-duplicates'), '2')
  t.equal(await text(page, 'now-missing'), '0')
  t.equal(await text(page, 'now-users'), shown(now.unique_users))
  t.equal(await text(page, 'now-workspaces'), shown(now.unique_workspaces))

  for (const [range, hours, users] of [
    ['Week', 168, 5],
    ['Month', 720, 5],
    ['Quarter', 2184, 5],
    ['Day', 24, 4],
    ['Hour', 1, 3],
  ] as const) {
    await page.getByText(range, { exact: true }).click()
    await says(page, 'past-snapshots', { Hour: /^1$/, Day: /^2$/ }[range as string] ?? /^3$/)
    const { total } = await json<{ total: SnapshotJson }>(
      replica.get(`/telemetry/usage?by=hour&from=${at(hours)}`, asAdmin),
    )
    t.equal(await text(page, 'past-users'), shown(total.unique_users), range)
    t.ok(Math.abs(total.unique_users - users) <= 1, 'merged, not summed')
    t.equal(await text(page, 'past-allowed'), shown(total.allowed_requests))
    t.equal(await text(page, 'past-denied'), shown(total.denied_requests))
    t.equal(await text(page, 'past-missing'), '4')
    t.equal(await text(page, 'past-missing-note'), '2 recovered')
    t.equal(await page.evaluate('location.hash'), `#${range.toLowerCase()}`)
  }
  const charts = page.getByRole('slider')
  t.equal(await charts.count(), 4)
  const newest = (n: number) => charts.nth(n).getAttribute('aria-valuetext')
  t.match(await newest(0), /, so far: Allowed 1,234$/)
  t.match(await newest(2), /, so far: Denied share 7.6%$/)
  t.match(await newest(3), /, so far: Users 5, Workspaces 3$/)
  await charts.nth(3).focus()
  await page.keyboard.press('Home')
  t.match(await newest(3), /\d: Users 3, Workspaces 3$/)

  const { snapshots } = await json<{ snapshots: SnapshotJson[] }>(
    replica.get('/telemetry/snapshots?limit=10', asAdmin),
  )
  const rows = page.locator('#snapshots tr')
  t.equal(await rows.count(), snapshots.length)
  t.match(
    (await rows.nth(0).innerText()).split('\t'),
    [
      '',
      '30 min',
      '10',
      '1',
      '0',
      '4 (2 recovered)',
      '3',
      '3',
      '1',
      'schedule',
      'dead (30 attempts, status 500)',
    ].map((cell) => new RegExp(cell.replace(/[()]/g, '\\$&'))),
  )
  t.match(await rows.nth(1).innerText(), /no sink$/)
  const time = rows.nth(0).locator('time')
  const end = snapshots[0]?.period_end ?? ''
  t.equal(await time.getAttribute('title'), `${end.slice(0, 10)} ${end.slice(11, 23)} UTC`)
  t.equal(
    await time.innerText(),
    new Intl.DateTimeFormat('en-GB', {
      month: 'short',
      day: 'numeric',
      hour: 'numeric',
      minute: '2-digit',
      second: '2-digit',
      timeZone: 'Asia/Kolkata',
    }).format(new Date(end)),
  )
  t.match(
    await text(page, 'replicas'),
    /^<b>one<\/b>\tlive, reporting\t\d+ s ago\t\d+ s ago\t\d+ s ago\t\d/,
    'a name is not interpreted as markup',
  )
})

t.test('a snapshot is taken after a confirmation, and the page shows its outcome', { skip }, async (t) => {
  const { url, sql } = await testDatabase(t)
  const replica = await startReplica(t, url, TOKENS)
  await replica.send({ logs: logs(6, 4) }, asAgent)
  const page = await openPage(t, browser, replica.url)
  await enter(page, ADMIN)
  await upToDate(page)
  const take = page.getByRole('button', { name: 'Take a snapshot…' })
  const confirm = page.getByRole('button', { name: 'Take the snapshot' })
  const taken = async () => (await sql`select from telemetry_snapshots`).length

  await take.click()
  t.match(await text(page, 'dialog-text'), /6 allowed and 4 denied requests so far/)
  await page.getByRole('button', { name: 'Cancel' }).click()
  await take.click()
  await page.keyboard.press('Escape')
  t.notOk(await confirm.isVisible())
  t.equal(await taken(), 0)

  await sql.begin(async (tx) => {
    await lockSnapshots(tx)
    await take.click()
    await confirm.click()
    await says(page, 'taken', /No snapshot was taken. Another snapshot is being taken/)
  })
  t.equal(await taken(), 0)

  await take.click()
  await confirm.click()
  await says(page, 'taken', /Snapshot taken at .*: 6 allowed, 4 denied, 1 user, 1 workspace, 1 replica\. /)
  t.equal(await taken(), 1)
  await says(page, 'now-allowed', /^0$/)
  await says(page, 'past-allowed', /^6$/)
  t.equal(await page.locator('#snapshots tr').count(), 1)
})

t.test(
  'if the service stops, the page says so, keeps its data, and recovers without a reload',
  { skip },
  async (t) => {
    const { url } = await testDatabase(t)
    const PORT = String(await freePort())
    const env = { ...TOKENS, DATABASE_URL: url, PORT }
    const service = await startProcess(t, env)
    await service.send({ logs: logs(6, 4) }, asAgent)
    const page = await openPage(t, browser, service.url)
    await enter(page, ADMIN)
    await upToDate(page)
    service.signal('SIGTERM')
    await service.exited
    await page.clock.fastForward(15_000)
    await says(page, 'status', `The service cannot be reached at 127.0.0.1:${PORT}`)
    t.match(await page.locator('#main').getAttribute('class'), /stale/)
    t.equal(await text(page, 'now-allowed'), '6')
    await page.clock.fastForward(90_000)
    t.match(await text(page, 'refreshed'), /updated [12] min ago/)

    await startProcess(t, env)
    await page.clock.fastForward(60_000)
    await upToDate(page)
    t.notMatch(await page.locator('#main').getAttribute('class'), /stale/)
  },
)

t.test(
  'the page names an unavailable database, also to who signs in then, and a response that comes from a proxy',
  { skip },
  async (t) => {
    const { url } = await testDatabase(t)
    const proxy = await startProxy(t, Number(new URL(url).port))
    const replica = await startReplica(t, proxy.through(url), TOKENS)
    const page = await openPage(t, browser, replica.url)
    await enter(page, ADMIN)
    await upToDate(page)
    const take = page.getByRole('button', { name: 'Take a snapshot…' })
    await take.click()
    proxy.setAway(true)
    await page.getByRole('button', { name: 'Take the snapshot' }).click()
    await says(page, 'taken', 'It is unknown whether a snapshot was taken')
    await says(page, 'status', /^The database is unavailable: .*\. Retrying\.$/)
    t.ok(await take.isDisabled(), 'no snapshot can be taken now')
    t.match(await page.locator('#main').getAttribute('class'), /stale/)

    const other = await openPage(t, browser, replica.url)
    await enter(other, ADMIN)
    await says(other, 'status', 'The database is unavailable')
    await says(other, 'attention', 'Unknown while the database is unavailable.')
    t.notOk(await other.locator('#past-counts').isVisible(), 'figures that are not known are not shown')

    proxy.setAway(false)
    await page.clock.fastForward(60_000)
    await upToDate(page)
    t.ok(await take.isEnabled())

    await page.route('**/telemetry/replicas', (route) => route.fulfill({ status: 502, body: '<h1>Bad</h1>' }))
    await page.clock.fastForward(15_000)
    await says(page, 'status', 'The 502 response does not come from the service')
  },
)

t.test('a hidden page sends no requests', { skip }, async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const page = await openPage(t, browser, replica.url)
  await upToDate(page)
  const asked: string[] = []
  page.on('request', (request) => asked.push(request.url()))
  const turn = (state: string) =>
    page.evaluate(`Object.defineProperty(document, 'visibilityState', { configurable: true, value: '${state}' })
      document.dispatchEvent(new Event('visibilitychange'))`)
  await turn('hidden')
  await page.clock.runFor(120_000)
  t.strictSame(asked, [])
  const back = page.waitForRequest('**/telemetry/snapshot')
  await turn('visible')
  await back
})

t.test('the page can be used by keyboard alone, with a visible focus', { skip }, async (t) => {
  const { url, sql } = await testDatabase(t)
  await recordSnapshot(sql, new Date(Date.now() - 2 * HOUR_MS).toISOString(), ['a', 'b'])
  await recordSnapshot(sql, new Date(Date.now() - HOUR_MS).toISOString(), ['a'])
  const replica = await startReplica(t, url, TOKENS)
  const page = await openPage(t, browser, replica.url)
  await says(page, 'status', 'Admin token required')
  await page.keyboard.type(ADMIN)
  await page.keyboard.press('Enter')
  await upToDate(page)

  const order: string[] = []
  for (let n = 0; n < 14; n++) {
    await page.keyboard.press('Tab')
    const [name, outline] = (await page.evaluate(`(() => {
      const { activeElement: at } = document
      const name = at.id || at.value || at.closest('figure')?.id || at.getAttribute('aria-labelledby') || at.textContent
      const ring = getComputedStyle(at.type === 'radio' ? at.nextElementSibling : at)
      return [name, ring.outlineStyle + ' ' + ring.outlineWidth]
    })()`)) as [string, string]
    if (name === '' || name.includes('\n')) continue // the browser's own stop between the last element and the first
    order.push(name)
    t.equal(outline, 'solid 2px', `${name} has a visible focus`)
  }
  t.strictSame(order.slice(0, 13), [
    'well-summary',
    'take',
    'day',
    'csv',
    'chart-allowed',
    'chart-denied',
    'chart-share',
    'chart-distinct',
    'h-snapshots',
    'h-replicas',
    'API',
    'Metrics',
    'forget',
  ])

  const chart = page.getByRole('slider').nth(3)
  await chart.focus()
  const read = () => chart.getAttribute('aria-valuetext')
  await page.keyboard.press('ArrowLeft')
  t.match(await read(), /, so far: Users 0/)
  await page.keyboard.press('ArrowLeft')
  t.match(await read(), /: Users 1/)
  await page.keyboard.press('ArrowLeft')
  t.match(await read(), /: Users 2/)
  t.match(await page.locator('#chart-distinct figcaption').innerText(), /Users\s*2/)
  await page.keyboard.press('Home')
  t.match(await read(), /: Users 2/)
  await page.keyboard.press('End')
  t.match(await read(), /: Users 0/)

  await page.locator('input[value=day]').focus()
  await page.keyboard.press('ArrowRight')
  await says(page, 'span', /since/)
  t.equal(await focused(page), 'week')

  await page.locator('#take').focus()
  await page.keyboard.press('Enter')
  t.equal(await focused(page), 'cancel', 'the safe choice comes first')
  await page.keyboard.press('Tab')
  await page.keyboard.press('Enter')
  await says(page, 'taken', 'Snapshot taken')
  t.equal(await focused(page), 'take')
})

t.test(
  'the page fits a narrow screen, and its colors have enough contrast in light and dark',
  { skip },
  async (t) => {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url, TOKENS)
    const page = await openPage(t, browser, replica.url, 360)
    await says(page, 'status', 'Admin token required')
    t.notOk(await isWide(page), 'the form')
    await enter(page, ADMIN)
    await upToDate(page)
    t.notOk(await isWide(page), 'without data')
    await replica.send({ logs: logs(900, 100) }, asAgent)
    await replica.post('/telemetry/snapshot', asAdmin)
    await page.clock.fastForward(15_000)
    await says(page, 'past-allowed', /^900$/)
    t.notOk(await isWide(page), 'with data')
    await page.route('**/telemetry/**', (route) => route.abort())
    await page.clock.fastForward(15_000)
    await says(page, 'status', 'cannot be reached')
    t.notOk(await isWide(page), 'with an error message')

    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme })
      const colors = (await page.evaluate(`(() => {
      const style = getComputedStyle(document.documentElement)
      return Object.fromEntries(['panel', 'ground', 'bad-ground', 'text', 'muted', 'accent', 'on-accent', 'good', 'bad',
        'warn', 'allowed', 'denied', 'users', 'workspaces'].map((name) => [name, style.getPropertyValue('--' + name)]))
    })()`)) as Record<string, string>
      const pairs = [
        ...['text', 'muted', 'accent', 'good', 'bad', 'warn'].map((name) => [name, 'panel', 4.5] as const),
        ...['text', 'muted', 'accent'].map((name) => [name, 'ground', 4.5] as const),
        ['bad', 'bad-ground', 4.5] as const,
        ['on-accent', 'accent', 4.5] as const,
        ...['allowed', 'denied', 'users', 'workspaces'].map((name) => [name, 'panel', 3] as const),
      ]
      for (const [ink, paper, least] of pairs) {
        const ratio = contrast(colors[ink], colors[paper])
        t.ok(ratio >= least, `${colorScheme}: ${ink} on ${paper} has ${ratio.toFixed(1)}, needs ${least}`)
      }
      const dark = luminance(colors.ground) < luminance(colors.text)
      t.equal(dark, colorScheme === 'dark')
    }
  },
)

/** As WCAG 2 defines it. */
function contrast(a: string | undefined, b: string | undefined): number {
  const [lighter = 0, darker = 0] = [luminance(a), luminance(b)].sort((x, y) => y - x)
  return (lighter + 0.05) / (darker + 0.05)
}

function luminance(color = ''): number {
  const hex = color.length === 4 ? color.replaceAll(/[0-9a-f]/g, '$&$&') : color
  const [r = 0, g = 0, b = 0] = [1, 3, 5].map((at) => {
    const channel = Number.parseInt(hex.slice(at, at + 2), 16) / 255
    return channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4
  })
  return 0.2126 * r + 0.7152 * g + 0.0722 * b
}
