// A replica as an operator runs it: `node dist/server.js` in a process of its own, with nothing inherited.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { runCommand as runInProcess } from '../../src/cli.js'
import { batch } from './replica.js'
import type { Scope } from './scope.js'
import { until } from './until.js'

const SERVER = fileURLToPath(new URL('../../dist/server.js', import.meta.url))
/** How long to wait for what must come: only a fault takes so long. */
const PATIENCE_MS = 60_000

/** One line of the log; level 30 is info, 40 warn, 50 error, 60 fatal. */
export interface LogLine {
  level: number
  msg: string
  [field: string]: unknown
}

export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

export interface ServiceProcess {
  readonly pid: number
  /** Its working directory, where a relative DATA_DIR lies; gone when the test ends. */
  readonly home: string
  /** Where it listens; throws before it does. */
  readonly url: string
  /** Where it listens; throws before it does. */
  readonly port: number
  /** What it has logged so far. */
  readonly logs: readonly LogLine[]
  /** What it has written so far, logs included. */
  readonly stdout: string
  readonly stderr: string
  /** Resolves when it has ended and all that it wrote has been read. */
  readonly exited: Promise<Exit>
  signal(name: NodeJS.Signals): void
  /** The first line whose message holds `text`, now or as soon as it is logged; rejects if the process ends without. */
  log(text: string): Promise<LogLine>
  /** Resolves when /-/ready answers with `status`; rejects if the process ends before. */
  untilReady(status?: 200 | 503): Promise<void>
  /** POSTs a batch; `body` fields override a valid one's. */
  send(body?: Record<string, unknown>, headers?: Record<string, string>): Promise<Response>
  get(path: string, headers?: Record<string, string>): Promise<Response>
  post(path: string, headers?: Record<string, string>): Promise<Response>
}

export interface ProcessOptions {
  /** What to wait for: `spawned` waits for nothing, `ready` is the default. */
  until?: 'spawned' | 'listening' | 'ready'
  /** A command and its options; without any it is the service. */
  args?: string[]
  /** Keeps from it what a terminal signals to all that it runs. */
  detached?: boolean
  /** Options of Node.js itself. */
  nodeOptions?: string[]
  /** Files that lie in its working directory, by name. */
  files?: Record<string, string>
}

/** Compiles the embedded PostgreSQL, which is WebAssembly, once instead of twice: half the CPU time of a start. */
export const FOR_TESTS = ['--liftoff-only']

/** Processes whose test has not ended: a test file that is cut off does not leave them behind. */
const living = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of living) child.kill('SIGKILL')
})

/**
 * Starts one on a free port of 127.0.0.1; it flushes and takes snapshots only when told to, unless `env` says
 * otherwise. Killed when the test ends, if it has not ended by then.
 */
export async function startProcess(
  t: Scope,
  env: Record<string, string> = {},
  { until = 'ready', args = [], detached = false, nodeOptions = [], files = {} }: ProcessOptions = {},
): Promise<ServiceProcess> {
  const home = await mkdtemp(join(tmpdir(), 'boundary-usage-test-'))
  for (const [name, content] of Object.entries(files)) await writeFile(join(home, name), content)
  const child = spawn(process.execPath, [...FOR_TESTS, ...nodeOptions, SERVER, ...args], {
    cwd: home, // so that no .env of the developer's is read
    env: {
      ...inherited(),
      PORT: '0',
      FLUSH_INTERVAL_MS: '3600000',
      SNAPSHOT_INTERVAL_MS: '0',
      REPLICA_NAME: 'test',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached,
  })
  const service = watch(child, home)
  living.add(child)
  t.teardown(async () => {
    child.kill('SIGKILL')
    await service.exited
    living.delete(child)
    await rm(home, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 })
  })
  try {
    if (until !== 'spawned') await service.log('Server listening at')
    if (until === 'ready') await service.untilReady(200)
  } catch (error) {
    child.kill('SIGKILL') // so that another process can listen on its port
    await service.exited
    throw error
  }
  return service
}

/** What a command did. */
export interface Done {
  code: number | null
  stdout: string
  stderr: string
  home: string
}

/** Runs a command of the service to its end. */
export async function runCommand(
  t: Scope,
  args: string[],
  env: Record<string, string> = {},
  files: Record<string, string> = {},
): Promise<Done> {
  const process = await startProcess(t, env, { until: 'spawned', args, files })
  const { code } = await process.exited
  const { stdout, stderr, home } = process
  return { code, stdout, stderr, home }
}

/** Runs a command in this process, where what a process does with its result is not what is tested. Reads no .env. */
export async function runHere(args: string[], env: Record<string, string> = {}): Promise<Omit<Done, 'home'>> {
  const written = { stdout: '', stderr: '' }
  const code = await runInProcess(args, {
    env,
    stdout: { write: (text) => (written.stdout += text) },
    stderr: { write: (text) => (written.stderr += text) },
  })
  return { code: code ?? null, ...written }
}

/** What a process needs to run at all; no setting of the developer's. */
function inherited(): Record<string, string> {
  const names = ['PATH', 'TMPDIR', 'SystemRoot', 'TEMP', 'TMP']
  return Object.fromEntries(
    names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  )
}

function watch(child: ChildProcess, home: string): ServiceProcess {
  const { stdout, stderr, pid } = child
  if (!stdout || !stderr || pid === undefined) throw new Error('the process did not start')

  const logs: LogLine[] = []
  const written = { stdout: '', stderr: '' }
  const watchers = new Set<() => void>()
  let ended: Exit | undefined
  const notify = () => {
    for (const watcher of watchers) watcher()
  }
  createInterface(stdout).on('line', (line) => {
    written.stdout += `${line}\n`
    const parsed = parseLog(line)
    if (parsed) logs.push(parsed)
    notify()
  })
  stderr.setEncoding('utf8').on('data', (text: string) => {
    written.stderr += text
  })
  const exited = once(child, 'close').then((): Exit => {
    ended = { code: child.exitCode, signal: child.signalCode }
    notify()
    return ended
  })

  function log(text: string): Promise<LogLine> {
    return new Promise((resolve, reject) => {
      const giveUp = (why: string) => fail(`${why} without logging "${text}"`)
      const timer = setTimeout(() => giveUp('went on'), PATIENCE_MS)
      const done = () => {
        clearTimeout(timer)
        watchers.delete(look)
      }
      function fail(message: string): void {
        done()
        reject(new Error(`the process ${message}; it wrote:\n${written.stdout}${written.stderr}`))
      }
      function look(): void {
        const found = logs.find((line) => line.msg.includes(text))
        if (found) {
          done()
          resolve(found)
        } else if (ended) giveUp('ended')
      }
      watchers.add(look)
      look()
    })
  }

  function address(): URL {
    const line = logs.find(({ msg }) => msg.startsWith('Server listening at'))
    if (!line) throw new Error('it does not listen yet')
    return new URL(line.msg.slice('Server listening at '.length))
  }

  const service: ServiceProcess = {
    pid,
    home,
    get url() {
      return address().origin
    },
    get port() {
      return Number(address().port)
    },
    logs,
    get stdout() {
      return written.stdout
    },
    get stderr() {
      return written.stderr
    },
    exited,
    signal(name) {
      child.kill(name)
    },
    log,
    async untilReady(status = 200) {
      await until(
        async () => {
          if (ended) throw new Error(`the process ended; it wrote:\n${written.stdout}${written.stderr}`)
          const answer = await service.get('/-/ready').catch(() => undefined)
          await answer?.body?.cancel()
          return answer?.status === status
        },
        { what: `/-/ready to answer ${status}` },
      )
    },
    send: (body, headers) =>
      fetch(`${service.url}/boundary/logs`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(batch(body)),
      }),
    get: (path, headers) => fetch(service.url + path, headers ? { headers } : {}),
    post: (path, headers) => fetch(service.url + path, { method: 'POST', ...(headers && { headers }) }),
  }
  return service
}

/** The line if it is one of the log; the greeting to a person and what a command prints are not. */
function parseLog(line: string): LogLine | undefined {
  if (!line.startsWith('{"level"')) return undefined
  const parsed: unknown = JSON.parse(line)
  return isLogLine(parsed) ? parsed : undefined
}

function isLogLine(value: unknown): value is LogLine {
  return (
    typeof value === 'object' &&
    value !== null &&
    'level' in value &&
    typeof value.level === 'number' &&
    'msg' in value &&
    typeof value.msg === 'string'
  )
}
