// The package as its users get it: `npm pack`, and the tarball installed in an empty directory, with `npm run soak` by npm.

import { execFile, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { chmod, cp, mkdir, readdir, readFile, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { boundaryLogs, connectBoundary, envelopeFrame } from './helpers/boundary.js'
import { testDatabase } from './helpers/database.js'
import { isThorough } from './helpers/effort.js'
import { scratch } from './helpers/forwarder.js'
import { freePort } from './helpers/postgres.js'
import { until } from './helpers/until.js'

const run = promisify(execFile)
const ROOT = fileURLToPath(new URL('../', import.meta.url))
const NAME = 'boundary-usage'
const PACKAGES = 'node_modules'

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

/** Installs the tarball as its users do. */
async function install(t: Test, directory: string, tarball: string): Promise<void> {
  const options = ['--prefer-offline', '--omit=optional', '--no-audit', '--no-fund']
  const { stdout, stderr } = await run('npm', ['install', `./${tarball}`, ...options], { cwd: directory })
  t.notMatch(stdout + stderr, /install-scripts/, 'nothing asks to run scripts')
}

/** What a package.json, or the lockfile of a package, says. */
interface Manifest {
  dev?: boolean
  optional?: boolean
  hasInstallScript?: boolean
  bin?: Record<string, string>
  scripts?: Record<string, string>
}

/** Unpacks the tarball beside copies of the packages that the lockfile has for it: a tenth of the CPU time of npm. */
async function assemble(t: Test, directory: string, tarball: string): Promise<void> {
  const home = join(directory, PACKAGES, NAME)
  await mkdir(home, { recursive: true })
  await run('tar', ['-xzf', tarball, '-C', home, '--strip-components=1'], { cwd: directory })
  const { bin = {}, scripts = {} } = await readJson<Manifest>(join(home, 'package.json'))
  t.strictSame(
    Object.keys(scripts).filter((name) => name.endsWith('install')),
    [],
    'it runs no scripts',
  )
  await mkdir(join(directory, PACKAGES, '.bin'))
  for (const [name, path] of Object.entries(bin)) {
    await chmod(join(home, path), 0o755)
    await symlink(join('..', NAME, path), join(directory, PACKAGES, '.bin', name))
  }
  const { packages } = await readJson<{ packages: Record<string, Manifest> }>(join(ROOT, 'package-lock.json'))
  const bundled = await readdir(join(home, PACKAGES))
  for (const [path, { dev, optional, hasInstallScript = false }] of Object.entries(packages)) {
    const name = path.slice(PACKAGES.length + 1)
    if (path === '' || dev || optional || name.includes(PACKAGES) || bundled.includes(name)) continue
    t.notOk(hasInstallScript, `${name} runs no scripts`)
    await cp(join(ROOT, path), join(directory, path), { recursive: true })
  }
}

async function readJson<T>(path: string): Promise<T> {
  return JSON.parse(await readFile(path, 'utf8'))
}

t.test(
  'the tarball installs without development tools, with the patched driver, and both programs run',
  async (t) => {
    const directory = await scratch(t)
    // Tests are run on what was built before.
    await run('npm', ['pack', '--ignore-scripts', '--pack-destination', directory], { cwd: ROOT })
    const [tarball = ''] = (await readdir(directory)).filter((name) => name.endsWith('.tgz'))
    const modules = join(directory, PACKAGES)
    await (isThorough ? install(t, directory, tarball) : assemble(t, directory, tarball))

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
    const { version } = await readJson<{ version: string }>(join(ROOT, 'package.json'))
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
