// The package as its users get it: `npm pack`, and `npm install` of the tarball in an empty directory.

import { execFile, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { boundaryLogs, connectBoundary, envelopeFrame } from './helpers/boundary.js'
import { testDatabase } from './helpers/database.js'
import { scratch } from './helpers/forwarder.js'
import { freePort } from './helpers/postgres.js'
import { until } from './helpers/until.js'

const run = promisify(execFile)
const ROOT = fileURLToPath(new URL('../', import.meta.url))

/** A program of the package, in a process of its own that ends with the test. */
async function start(t: Test, directory: string, args: string[], env: Record<string, string>, line: string) {
  const child = spawn(join(directory, 'node_modules/.bin/boundary-usage'), args, {
    cwd: directory,
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const closed = once(child, 'close')
  const lines: string[] = []
  createInterface(child.stdout).on('line', (text) => lines.push(text))
  const end = async () => {
    child.kill('SIGTERM')
    await closed
    return child.exitCode
  }
  t.teardown(end)
  await until(() => lines.some((text) => text.includes(line)), { what: line })
  return { end }
}

t.test(
  'the tarball installs without development tools, with the patched driver, and both programs run',
  async (t) => {
    const directory = await scratch(t)
    // Tests are run on what was built before.
    await run('npm', ['pack', '--ignore-scripts', '--pack-destination', directory], { cwd: ROOT })
    const [tarball = ''] = (await readdir(directory)).filter((name) => name.endsWith('.tgz'))
    const install = [
      'install',
      `./${tarball}`,
      '--prefer-offline',
      '--omit=optional',
      '--no-audit',
      '--no-fund',
    ]
    const { stdout, stderr } = await run('npm', install, { cwd: directory })
    t.notMatch(stdout + stderr, /install-scripts/, 'nothing asks to run scripts')

    const modules = join(directory, 'node_modules')
    const installed = await readdir(modules)
    for (const tool of ['patch-package', 'typescript', 'tap', 'tsx', 'protobufjs'])
      t.notOk(installed.includes(tool), `${tool} is not installed`)
    for (const file of ['connection.js', 'index.js']) {
      const path = join('node_modules/postgres/src', file)
      t.ok(
        (await readFile(join(modules, 'boundary-usage', path))).equals(await readFile(join(ROOT, path))),
        file,
      )
    }
    const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'))
    const bin = join(modules, '.bin/boundary-usage')
    t.equal((await run(bin, ['--version'])).stdout, `${version}\n`)
    t.equal((await run(bin, ['forward', '--version'])).stdout, `${version}\n`)
    t.match((await run(bin, ['forward', '--help'])).stdout, /^Usage: boundary-usage forward/)

    const { url, sql } = await testDatabase(t)
    const port = await freePort()
    const service = await start(
      t,
      directory,
      [],
      { DATABASE_URL: url, PORT: String(port), ACK: 'durable', FLUSH_INTERVAL_MS: '1000' },
      'Server listening',
    )
    const socket = join(directory, 'boundary.sock')
    const forwarder = await start(
      t,
      directory,
      ['forward', '--url', `http://127.0.0.1:${port}`, '--socket', socket, '--spool', 'spool'],
      { BOUNDARY_USAGE_WORKSPACE_ID: randomUUID(), BOUNDARY_USAGE_OWNER_ID: randomUUID() },
      'forwarding',
    )
    t.equal((await run(bin, ['forward', '--wait', '--socket', socket])).stdout, '')
    const boundary = await connectBoundary(t, socket)
    await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(10) }))
    const counts = async () => {
      const [row] = await sql`select allowed_requests::int, denied_requests::int from boundary_usage_stats`
      return row
    }
    await until(async () => (await counts()) !== undefined, { what: 'the logs in the database' })
    t.strictSame({ ...(await counts()) }, { allowed_requests: 9, denied_requests: 1 })
    t.equal(await forwarder.end(), 0)
    t.equal(await service.end(), 0)
  },
)
