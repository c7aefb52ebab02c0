// Drives a real browser: the one that CHROMIUM names, or on Linux x64 the one of the package @sparticuz/chromium.

import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Browser, chromium } from 'playwright-core'
import type { Scope } from './scope.js'

const { CHROMIUM } = process.env
const hasPackaged = process.platform === 'linux' && process.arch === 'x64'

/** Why a test that needs a browser is skipped; false if it is not. */
export function withoutChromium(): string | false {
  return CHROMIUM === undefined && !hasPackaged && 'CHROMIUM does not name the binary of a Chromium'
}

/** Starts a browser, which connects to no other host by itself; `rules` say to which addresses names resolve. */
export async function startChromium(t: Scope, rules: string[] = []): Promise<Browser> {
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
      ...(rules.length > 0 ? [`--host-resolver-rules=${rules.join(',')}`] : []),
    ],
    env: { ...process.env, ...env, LC_ALL: 'en_US.UTF-8' }, // under C it reports the language en-US@posix, which is invalid
  })
  t.teardown(() => browser.close())
  return browser
}

/**
 * Unpacks the browser, its fonts and its libraries. The package does that into TMPDIR, or takes what lies there, and
 * adds the libraries only where it believes to be in AWS Lambda: so in a process of its own.
 */
async function unpack(t: Scope) {
  const home = await mkdtemp(join(tmpdir(), 'boundary-usage-test-'))
  t.teardown(() => rm(home, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }))
  const script = `
    const { default: chromium } = await import(${JSON.stringify(import.meta.resolve('@sparticuz/chromium'))})
    chromium.setGraphicsMode = false
    process.stdout.write(await chromium.executablePath())`
  const { stdout: executablePath } = await promisify(execFile)(
    process.execPath,
    ['--input-type=module', '-e', script],
    { env: { PATH: process.env.PATH, TMPDIR: home, AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs22.x' } },
  )
  // The package's own configuration looks for the fonts in /tmp.
  const FONTCONFIG_FILE = join(home, 'fonts.conf')
  await writeFile(
    FONTCONFIG_FILE,
    `<fontconfig><dir>${home}/fonts</dir><cachedir>${home}/cache</cachedir></fontconfig>`,
  )
  return { executablePath, env: { FONTCONFIG_FILE, LD_LIBRARY_PATH: join(home, 'al2023/lib') } }
}
