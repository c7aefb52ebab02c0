// Drives the browser of the system, where there is one to drive.

import { existsSync } from 'node:fs'
import { type Browser, chromium } from 'playwright-core'
import type { Scope } from './scope.js'

const PLACES = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
]

const executablePath = PLACES.find((path) => path !== undefined && existsSync(path))

/** Why a test that needs a browser is to be skipped; false if it is not. */
export function withoutChromium(): string | false {
  if (process.env.CI) return 'CI runs no browser'
  return executablePath === undefined && 'Chromium is not installed: CHROMIUM may say where it is'
}

/** Starts one; it asks no other host for anything. */
export async function startChromium(t: Scope): Promise<Browser> {
  if (executablePath === undefined) throw new Error('there is no Chromium')
  const browser = await chromium.launch({
    executablePath,
    args: [
      '--headless',
      '--no-sandbox', // which root cannot have
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })
  t.teardown(() => browser.close())
  return browser
}
