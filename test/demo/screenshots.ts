// npm run screenshots: the images of the status page in docs/images, light and dark, of a running demo.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { startChromium } from '../helpers/chromium.js'
import { openScope, type Scope } from '../helpers/scope.js'

const IMAGES = fileURLToPath(new URL('../../docs/images/', import.meta.url))
const SIZE = { width: 1200, height: 1000 }

const scope = openScope()
try {
  const url = await startDemo(scope)
  const browser = await startChromium(scope)
  const page = await browser.newPage({ viewport: SIZE, locale: 'en-US', timezoneId: 'UTC' })
  await page.goto(`${url}/#week`)
  await page.locator('#now-allowed').filter({ hasText: /[1-9]/ }).waitFor()
  await page.locator('#span').filter({ hasText: 'since' }).waitFor()
  await mkdir(IMAGES, { recursive: true })
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme })
    await page.screenshot({ path: `${IMAGES}status-page-${colorScheme}.png` })
  }
} finally {
  await scope.close()
}

/** Resolves with the address that the demo prints. */
async function startDemo(scope: Scope): Promise<string> {
  const file = fileURLToPath(new URL('demo.ts', import.meta.url))
  const demo = spawn(process.execPath, ['--import', 'tsx', file], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(demo, 'close')
  scope.teardown(async () => {
    demo.kill('SIGTERM')
    await ended
  })
  for await (const line of createInterface(demo.stdout)) {
    const url = /^Open (\S+)\/#/.exec(line)?.[1]
    if (url === undefined) continue
    demo.stdout.resume() // what it prints from now on is not read
    return url
  }
  throw new Error('the demo ended before it printed its address')
}
