// Drives a real browser: the one that CHROMIUM names, or on Linux x64 the one of the package @sparticuz/chromium.

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import packaged from '@sparticuz/chromium'
import { type Browser, chromium } from 'playwright-core'
import type { Scope } from './scope.js'

const { CHROMIUM } = process.env
const hasPackaged = process.platform === 'linux' && process.arch === 'x64'

/** Why a test that needs a browser is skipped; false if it is not. */
export function withoutChromium(): string | false {
  return CHROMIUM === undefined && !hasPackaged && 'CHROMIUM does not name the binary of a Chromium'
}

/** Starts a browser, which connects to no other host by itself. */
export async function startChromium(t: Scope): Promise<Browser> {
  const { executablePath, env } =
    CHROMIUM === undefined ? await unpack(t) : { executablePath: CHROMIUM, env: {} }
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
    ],
    env: { ...process.env, ...env, LC_ALL: 'en_US.UTF-8' }, // under C it reports the language en-US@posix, which is invalid
  })
  t.teardown(() => browser.close())
  return browser
}

/** The package unpacks its browser and fonts into TMPDIR, or takes what lies there. */
async function unpack(t: Scope) {
  const { TMPDIR } = process.env
  const home = await mkdtemp(join(tmpdir(), 'boundary-usage-test-'))
  t.teardown(() => rm(home, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }))
  packaged.setGraphicsMode = false
  process.env.TMPDIR = home
  const executablePath = await packaged.executablePath()
  if (TMPDIR === undefined) delete process.env.TMPDIR
  else process.env.TMPDIR = TMPDIR
  // The package's own configuration looks for its fonts in /tmp.
  const FONTCONFIG_FILE = join(home, 'fonts.conf')
  await writeFile(
    FONTCONFIG_FILE,
    `<fontconfig><dir>${home}/fonts</dir><cachedir>${home}/cache</cachedir></fontconfig>`,
  )
  return { executablePath, env: { FONTCONFIG_FILE } }
}
