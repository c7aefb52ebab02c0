// A forwarder as an operator runs it: `boundary-usage forward` in a process of its own.

import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Exit, LogLine } from './process.js'
import type { Scope } from './scope.js'
import { until } from './until.js'

const BIN = fileURLToPath(new URL('../../dist/bin.js', import.meta.url))

export interface ForwarderOptions {
  urls?: string[]
  socket?: string
  /** Further arguments. */
  args?: string[]
  env?: Record<string, string>
  nodeOptions?: string[]
  /** False: does not wait until it accepts connections. */
  isReady?: boolean
}

export interface Forwarder {
  readonly pid: number
  readonly socket: string
  readonly workspaceId: string
  readonly ownerId: string
  readonly logs: readonly LogLine[]
  readonly stdout: string
  readonly stderr: string
  readonly exited: Promise<Exit>
  signal(name: NodeJS.Signals): void
  /** The first line, from now or before, whose message contains `text`. */
  log(text: string): Promise<LogLine>
  /** The totals at this moment. */
  totals(): Promise<LogLine>
  /** Ends it with SIGTERM; resolves with its exit. */
  end(): Promise<Exit>
  kill(): Promise<void>
}

/** A directory of the test's own. */
export async function scratch(t: Scope): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'boundary-usage-test-'))
  t.teardown(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }))
  return directory
}

export async function startForwarder(t: Scope, options: ForwarderOptions = {}): Promise<Forwarder> {
  const workspaceId = randomUUID()
  const ownerId = randomUUID()
  const socket = options.socket ?? join(await scratch(t), 'boundary.sock')
  const child = spawn(
    process.execPath,
    [...(options.nodeOptions ?? []), BIN, 'forward', ...(options.args ?? [])],
    {
      env: {
        PATH: process.env.PATH,
        BOUNDARY_USAGE_SOCKET: socket,
        BOUNDARY_USAGE_URL: (options.urls ?? []).join(),
        BOUNDARY_USAGE_WORKSPACE_ID: workspaceId,
        BOUNDARY_USAGE_OWNER_ID: ownerId,
        ...options.env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  const forwarder = watch(child, { socket, workspaceId, ownerId })
  t.teardown(() => forwarder.kill())
  if (options.isReady ?? true) await forwarder.log('forwarding')
  return forwarder
}

function watch(child: ChildProcess, ids: Pick<Forwarder, 'socket' | 'workspaceId' | 'ownerId'>): Forwarder {
  const { stdout, stderr, pid } = child
  if (!stdout || !stderr || pid === undefined) throw new Error('the process did not start')
  const logs: LogLine[] = []
  const written = { stdout: '', stderr: '' }
  createInterface(stdout).on('line', (line) => {
    written.stdout += `${line}\n`
    if (line.startsWith('{')) logs.push(JSON.parse(line))
  })
  stderr.setEncoding('utf8').on('data', (text: string) => {
    written.stderr += text
  })
  let ended: Exit | undefined
  const exited = once(child, 'close').then((): Exit => {
    ended = { code: child.exitCode, signal: child.signalCode }
    return ended
  })
  const log = async (text: string, from = 0): Promise<LogLine> => {
    const find = () => logs.slice(from).find(({ msg }) => msg.includes(text))
    await until(() => find() !== undefined || ended !== undefined, { what: `the log line "${text}"` })
    const line = find()
    if (line === undefined) throw new Error(`it ended without logging "${text}": ${written.stderr}`)
    return line
  }
  return {
    ...ids,
    pid,
    logs,
    get stdout() {
      return written.stdout
    },
    get stderr() {
      return written.stderr
    },
    exited,
    log,
    signal: (name) => void child.kill(name),
    async totals() {
      const from = logs.length
      child.kill('SIGUSR2')
      return log('totals', from)
    },
    async end() {
      child.kill('SIGTERM')
      return exited
    },
    async kill() {
      if (ended === undefined) child.kill('SIGKILL')
      await exited
    },
  }
}

/** Runs the forwarder's command to its end. */
export async function runForward(
  t: Scope,
  args: string[],
  env: Record<string, string> = {},
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [BIN, 'forward', ...args], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const run = watch(child, { socket: '', workspaceId: '', ownerId: '' })
  t.teardown(() => run.kill())
  const { code } = await run.exited
  return { code, stdout: run.stdout, stderr: run.stderr }
}
