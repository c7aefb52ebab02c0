// What the status page draws attention to, and what it shows when there is little or much to show.

import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { Browser } from 'playwright-core'
import t from 'tap'
import { startChromium, withoutChromium } from '../helpers/chromium.js'
import { testDatabase } from '../helpers/database.js'
import { recordSnapshot } from '../helpers/history.js'
import { openPage, says, text, upToDate } from '../helpers/page.js'
import { logs, startReplica } from '../helpers/replica.js'

const MINUTE_MS = 60_000
const ago = (minutes: number) => new Date(Date.now() - minutes * MINUTE_MS).toISOString()

const skip = withoutChromium()
t.setTimeout(300_000) // starting a browser takes long on a busy machine
let browser: Browser
t.before(async () => {
  if (!skip) browser = await startChromium(t)
})

t.test('the first minute is on the charts, in progress, and the range fits it', { skip }, async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  await replica.send({ logs: logs(3, 1) })
  const page = await openPage(t, browser, replica.url)
  await upToDate(page)
  const range = () => page.locator('#ranges input:checked').inputValue()
  t.equal(await range(), 'hour')
  const allowed = page.getByRole('slider').first()
  t.match(await allowed.getAttribute('aria-valuetext'), /, so far: Allowed 3$/)
  t.equal(await allowed.getAttribute('aria-valuemax'), '0')
  t.match(await text(page, 'chart-allowed'), 'per period; dashed: the current period, so far')
  t.match(await text(page, 'span'), / · times in Asia\/\w+$/)

  await replica.post('/telemetry/snapshot')
  await replica.send({ logs: logs(8, 2) })
  await page.clock.fastForward(15_000)
  await says(page, 'now-allowed', /^8$/)
  await says(page, 'past-snapshots', /^1$/)
  t.equal(await allowed.getAttribute('aria-valuemax'), '1', 'the first period and the one in progress')
  t.equal(await text(page, 'now-share'), '20%')
  t.equal(await text(page, 'now-share-note'), 'was 25%')
  t.match(await text(page, 'now-allowed-note'), /^was 3, rate /)
})

t.test('the page says what needs attention, and leads to the runbook', { skip }, async (t) => {
  const { url, sql } = await testDatabase(t)
  const killed = {
    replica_id: randomUUID(),
    name: 'killed',
    version: '0.1.0',
    started_at: ago(60),
    last_flush_seq: 1,
    seen_at: ago(4),
  }
  await sql`insert into boundary_usage_replicas ${sql(killed)}`
  const stopped = { ...killed, replica_id: randomUUID(), name: 'stopped', stopped_at: ago(5) }
  await sql`insert into boundary_usage_replicas ${sql(stopped)}`
  const replica = await startReplica(t, url, { REPLICA_NAME: 'one' })
  await replica.send()
  const page = await openPage(t, browser, replica.url)
  await says(page, 'status', /^1 check needs attention: replicas$/)
  t.match(await page.locator('#state').getAttribute('class'), /bad/)
  t.match(
    await text(page, 'attention'),
    /^Replicas 1 replica is silent \(killed\), the last heartbeat 4 min ago;/,
  )
  t.equal(await text(page, 'well-summary'), '5 checks are ok')
  const rows = (await text(page, 'replicas')).split('\n').map((row) => row.split('\t').slice(0, 3))
  t.match(rows, [
    ['one', 'live, reporting', /s ago$/],
    ['killed', 'silent', '4 min ago'],
    ['stopped', 'stopped', '4 min ago'],
  ])
  await page.getByRole('link', { name: 'Runbook: replicas' }).click()
  await page.waitForURL('**/docs/operating.md#check-replicas')
  t.ok(await page.locator('h2:target').isVisible())
})

t.test('a denied share of twice the usual one is reported, though every check is ok', { skip }, async (t) => {
  const { url, sql } = await testDatabase(t)
  for (const minutes of [2, 32, 62]) await recordSnapshot(sql, ago(minutes), ['a'])
  const replica = await startReplica(t, url)
  await replica.send({ logs: logs(82, 18) })
  const page = await openPage(t, browser, replica.url)
  await says(page, 'status', /^All is well$/)
  await replica.send({ logs: logs(0, 2) })
  await page.clock.fastForward(15_000)
  await says(page, 'status', 'All checks are ok, but denied requests have risen')
  t.match(await page.locator('#state').getAttribute('class'), /warn/)
  t.equal(
    await text(page, 'attention'),
    'Denied requests 20% of the requests of this period are denied; the median of the last 3 periods is 9.1%.',
  )
})

t.test('a range is compared with the one before it, and can be downloaded as CSV', { skip }, async (t) => {
  const { url, sql } = await testDatabase(t)
  const hours = [50, 30, 20, 10]
  for (const [n, hour] of hours.entries()) await recordSnapshot(sql, ago(hour * 60), ['a', `${n}`])
  await sql`update telemetry_snapshots set allowed_requests = 40 where period_end = ${ago(30 * 60)} or period_end > ${ago(25 * 60)}`
  const replica = await startReplica(t, url)
  const page = await openPage(t, browser, `${replica.url}/#day`)
  await says(page, 'past-allowed', /^80$/)
  t.match(await text(page, 'past-allowed-note'), /^\+\d+% from \d+$/)
  t.equal(await text(page, 'past-share-note').then((note) => note.slice(0, 5)), 'from ')
  const shown = await page.getByRole('slider').first().getAttribute('aria-valuemax')

  const downloading = page.waitForEvent('download')
  await page.getByRole('link', { name: 'Download CSV' }).click()
  const download = await downloading
  t.equal(download.suggestedFilename(), 'boundary-usage-day.csv')
  const lines = (await readFile(await download.path(), 'utf8')).split('\r\n')
  const csv = await replica.get('/telemetry/usage?by=hour', { accept: 'text/csv' })
  const [head = '', ...buckets] = (await csv.text()).split('\r\n')
  t.equal(lines[0], head, 'the columns of the API')
  t.equal(lines.length - 2, Number(shown), 'one line for each interval that has ended')
  for (const line of lines.slice(1, -1)) t.ok(buckets.includes(line), line)
})

t.test('older snapshots can be paged', { skip }, async (t) => {
  const { url, sql } = await testDatabase(t)
  for (let n = 0; n < 25; n++) await recordSnapshot(sql, ago(30 * n + 1), ['a'])
  await sql`update telemetry_snapshots set duplicate_requests = ceil(extract(epoch from now() - period_end) / 1800)`
  const replica = await startReplica(t, url)
  const page = await openPage(t, browser, replica.url)
  await upToDate(page)
  const [older, newest] = ['Older', 'Newest'].map((name) => page.getByRole('button', { name }))
  if (!older || !newest) throw new Error('no buttons')
  /** Waits until the first row is this one, and counts the rows. */
  const first = async (duplicates: number) => {
    const cell = page.locator('#snapshots tr:first-child td:nth-child(5)')
    await cell.filter({ hasText: new RegExp(`^${duplicates}$`) }).waitFor()
    return page.locator('#snapshots tr').count()
  }
  t.equal(await first(1), 10)
  t.ok(await newest.isDisabled())
  await older.click()
  t.equal(await first(11), 10)
  await older.click()
  t.equal(await first(21), 5)
  t.ok(await older.isDisabled())
  await page.clock.fastForward(15_000)
  await upToDate(page)
  t.equal(await first(21), 5, 'a refresh stays on the page')
  await newest.click()
  t.equal(await first(1), 10)
})

t.test(
  'the API reference shows no other product, and the browser complains of nothing',
  { skip },
  async (t) => {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url)
    const page = await openPage(t, browser, `${replica.url}/docs`)
    await page.getByRole('heading', { name: 'boundary-usage' }).waitFor()
    t.equal(await page.title(), 'boundary-usage API')
    t.equal(await page.locator('.topbar, img').count(), 0)
    const icons = await page.evaluate(
      `[...document.querySelectorAll('link[rel=icon]')].map(({ href }) => href)`,
    )
    t.strictSame(icons, [`${replica.url}/docs/static/theme/icon.svg`])
  },
)
