// Runs PgBouncer in front of a test's database, where it is installed.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort, unprivileged } from './postgres.js'
import type { Scope } from './scope.js'
import { until } from './until.js'

/** Whether there is one to run. */
export function hasPgbouncer(): boolean {
  try {
    execFileSync('pgbouncer', ['--version'])
    return true
  } catch {
    return false
  }
}

/**
 * Starts one; resolves with `url` by way of it. In transaction mode it has two sessions for all clients together, in
 * session mode enough for each to have its own.
 */
export async function startPgbouncer(
  t: Scope,
  url: string,
  mode: 'session' | 'transaction',
): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), 'boundary-usage-test-'))
  const { username, password, hostname, port, pathname } = new URL(url)
  const listenPort = await freePort()
  const [ini, users] = [join(home, 'pgbouncer.ini'), join(home, 'users')]
  await writeFile(users, `"${username}" "${password}"\n`)
  await writeFile(
    ini,
    [
      '[databases]',
      `* = host=${hostname} port=${port}`,
      '[pgbouncer]',
      'listen_addr = 127.0.0.1',
      `listen_port = ${listenPort}`,
      'unix_socket_dir =',
      'auth_type = plain',
      `auth_file = ${users}`,
      `pool_mode = ${mode}`,
      `default_pool_size = ${mode === 'session' ? 20 : 2}`,
      '',
    ].join('\n'),
  )
  const who = await unprivileged()
  await chmod(home, 0o755)
  if (who) for (const path of [ini, users]) await chown(path, who.uid, who.gid)
  const child = spawn('pgbouncer', [ini], { ...who, cwd: home, stdio: 'ignore' })
  const exited = once(child, 'exit')
  t.teardown(async () => {
    child.kill('SIGKILL')
    await exited
    await rm(home, { recursive: true, force: true })
  })
  await until(
    () => {
      if (child.exitCode !== null) throw new Error(`pgbouncer ended with ${child.exitCode}`)
      return accepts(listenPort)
    },
    { what: 'PgBouncer to listen' },
  )
  return `postgres://${username}:${password}@127.0.0.1:${listenPort}${pathname}`
}

async function accepts(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
