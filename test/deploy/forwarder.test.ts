// What deploys the forwarder fits the forwarder: its settings, its exit statuses, and the time it needs to end.

import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { readInvocation } from '../../src/forwarder/config.js'
import { boundaryLogs, connectBoundary, envelopeFrame } from '../helpers/boundary.js'
import { scratch } from '../helpers/forwarder.js'
import { startStub } from '../helpers/stub-service.js'
import { until } from '../helpers/until.js'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const FOLDER = join(ROOT, 'deploy/forwarder')
/** What it takes at most from SIGTERM to its exit: reading, sending, writing, and waiting for the tee. */
const SHUTDOWN_S = 2 + 5 + 1 + 1

t.test('every variable in these files is a setting of the forwarder', async (t) => {
  for (const file of [
    ...(await readdir(FOLDER)).map((name) => join(FOLDER, name)),
    join(ROOT, 'docs/connect-a-boundary.md'),
  ]) {
    const names = (await readFile(file, 'utf8')).match(/BOUNDARY_USAGE_[A-Z_]+/g) ?? []
    for (const name of names) t.ok(name === 'BOUNDARY_USAGE_TOKEN' || isSetting(name), `${file}: ${name}`)
  }
})

/** Whether an invalid value of the variable is rejected, or its value arrives. */
function isSetting(name: string): boolean {
  const valid = {
    BOUNDARY_USAGE_URL: 'http://127.0.0.1:1',
    BOUNDARY_USAGE_SOCKET: '/tmp/x.sock',
    BOUNDARY_USAGE_WORKSPACE_ID: randomUUID(),
    BOUNDARY_USAGE_OWNER_ID: randomUUID(),
  }
  const read = (env: Record<string, string>) => {
    try {
      return JSON.stringify(readInvocation([], env))
    } catch (error) {
      return String(error)
    }
  }
  return read({ ...valid, [name]: '/' }) !== read(valid)
}

t.test('systemd gives it the time that it needs to end, and keeps the socket between two runs', async (t) => {
  const unit = await readFile(join(FOLDER, 'boundary-usage-forward.service'), 'utf8')
  t.ok(Number(/^TimeoutStopSec=(\d+)$/m.exec(unit)?.[1]) > SHUTDOWN_S)
  t.match(unit, /^RuntimeDirectoryPreserve=yes$/m)
  t.match(unit, /^RestartPreventExitStatus=2$/m)
})

t.test(
  'the script for workspaces starts a forwarder, waits until it accepts, and starts it again',
  async (t) => {
    const stub = await startStub(t)
    const home = await scratch(t)
    // As `npm install -g` would put it on the PATH.
    const bin = join(home, 'bin')
    await mkdir(bin)
    await writeFile(
      join(bin, 'boundary-usage'),
      `#!/bin/sh\n[ "$#" -gt 1 ] || echo $$ >>'${home}/pids'\nexec '${process.execPath}' '${ROOT}dist/bin.js' "$@"\n`,
    )
    await chmod(join(bin, 'boundary-usage'), 0o755)
    const pids = async () =>
      (await readFile(join(home, 'pids'), 'utf8').catch(() => '')).trim().split('\n').map(Number)
    const socket = join(home, 'boundary.sock')
    const script = spawn(join(FOLDER, 'workspace.sh'), {
      env: {
        PATH: `${bin}:${process.env.PATH}`,
        HOME: home,
        BOUNDARY_USAGE_URL: stub.url,
        BOUNDARY_USAGE_SOCKET: socket,
        BOUNDARY_USAGE_WORKSPACE_ID: randomUUID(),
        BOUNDARY_USAGE_OWNER_ID: randomUUID(),
        BOUNDARY_USAGE_TEE: join(home, 'agent.sock'),
      },
      stdio: ['ignore', 'ignore', 'inherit'],
      detached: true,
    })
    // With it end the forwarders that it has started, and the loop that would start another one.
    t.teardown(() => endGroup(script.pid ?? 0))
    t.strictSame(await once(script, 'exit'), [0, null])
    const boundary = await connectBoundary(t, socket)
    await boundary.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(10) }))
    await until(() => stub.counted.size === 10, { what: 'the logs' })
    const [first = 0] = await pids()
    process.kill(first, 'SIGKILL')
    const second = await until(async () => (await pids())[1], { what: 'another start' })
    await until(
      async () => {
        const again = await connectBoundary(t, socket).catch(() => undefined)
        await again?.send(envelopeFrame({ session_id: randomUUID(), logs: boundaryLogs(10) }))
        return again !== undefined
      },
      { what: 'a forwarder that accepts' },
    )
    await until(() => stub.counted.size === 20, { what: 'the logs of the second run' })
    process.kill(second, 'SIGTERM')
    await until(() => !isAlive(second), { what: 'its end' })
    t.equal((await pids()).length, 2, 'a clean end is no reason to start again')
  },
)

function endGroup(leader: number): void {
  if (leader > 0 && isAlive(-leader)) process.kill(-leader, 'SIGKILL')
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
