// Drives a real browser: the one that CHROMIUM names, or on Linux x64 the one of the package @sparticuz/chromium.

import { type Browser, chromium } from 'playwright-core'
import { environmentOf, hasPackaged, unpacked } from './packaged-chromium.js'
import type { Scope } from './scope.js'

const { CHROMIUM } = process.env

/** Why a test that needs a browser is skipped; false if it is not. */
export function withoutChromium(): string | false {
  return CHROMIUM === undefined && !hasPackaged && 'CHROMIUM does not name the binary of a Chromium'
}

/** Starts a browser, which connects to no other host by itself; `rules` say to which addresses names resolve. */
export async function startChromium(t: Scope, rules: string[] = []): Promise<Browser> {
  const executablePath = CHROMIUM ?? (await unpacked(t))
  const env = CHROMIUM === undefined ? environmentOf(executablePath) : {}
  const browser = await chromium.launch({
    executablePath,
    // Not the arguments that the package recommends: they switch off protection that tests are about.
    args: [
      '--no-sandbox', // root cannot have one
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      ...(rules.length > 0 ? [`--host-resolver-rules=${rules.join(',')}`] : []),
    ],
    env: { ...process.env, ...env, LC_ALL: 'en_US.UTF-8' }, // under C it reports the language en-US@posix, which is invalid
  })
  t.teardown(() => browser.close())
  return browser
}
