// npm test [-- FILE …]: compiles the test files and runs them in a few processes, on one PostgreSQL server.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { compiled, compileTests } from './compile.js'
import { prepareChromium } from './helpers/packaged-chromium.js'
import { preparePostgres } from './helpers/postgres.js'
import { openScope } from './helpers/scope.js'
import { SERVER_VARIABLE, startShared } from './helpers/shared-server.js'
import { linkService } from './link.js'

/** More than a small machine has cores, since most files wait for timeouts and other processes. */
const JOBS = 4
/** What takes longest, so that none of it runs alone at the end. */
const FIRST = `
  faults/hostile database/embedded package forwarder/faults faults/cut-points server delivery/delivery page/page
  faults/model forwarder/end-to-end forwarder/spool demo/demo database/defaults reporting/late database/migrate
  ingest/json faults/end snapshots/days`
  .trim()
  .split(/\s+/)
  .map((name) => `test/${name}.test.ts`)
/** Runs test files in one process, which loads the service and warms up once: that takes a second of CPU time. */
const WORKER = 'test/worker.ts'
/** Then tap names the tests of a file that have not ended. */
const FILE_LIMIT_MS = 300_000
/** So much later the process is ended. */
const KILL_AFTER_MS = 5_000

/** Lines that are shown of a file that failed. */
const LONGEST_REPORT = 200

const ROOT = fileURLToPath(new URL('..', import.meta.url))

interface Outcome {
  file: string
  passed: boolean
  /** What it did not test, and why. */
  skipped: string[]
}

const running = new Set<ChildProcess>()
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    for (const child of running) child.kill(signal)
    process.exit(1)
  })

const start = performance.now()
const files = process.argv.length > 2 ? process.argv.slice(2) : await findFiles()
const scope = openScope()
const outcomes: Outcome[] = []
try {
  const [server] = await Promise.all([
    preparePostgres(scope).then(() => startShared(scope)),
    linkService().then(compileTests),
    (await needBrowser()) && prepareChromium(scope),
  ])
  const queue = [
    ...FIRST.filter((file) => files.includes(file)),
    ...files.filter((file) => !FIRST.includes(file)),
  ]
  await Promise.all(
    Array.from({ length: JOBS }, async () => {
      while (queue.length > 0) await runWorker(queue, server)
    }),
  )
} finally {
  await scope.close()
}
process.exitCode = report(outcomes) ? 0 : 1

async function findFiles(): Promise<string[]> {
  const names = await readdir(join(ROOT, 'test'), { recursive: true })
  return names
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join('test', name))
    .sort()
}

async function needBrowser(): Promise<boolean> {
  const texts = await Promise.all(files.map((file) => readFile(join(ROOT, file), 'utf8')))
  return texts.some((text) => text.includes('startChromium'))
}

/** Runs files of the queue in a process, until the queue is empty or the process ends. */
async function runWorker(queue: string[], server: string): Promise<void> {
  const child = spawn(process.execPath, ['--enable-source-maps', compiled(WORKER)], {
    cwd: ROOT,
    env: { ...process.env, [SERVER_VARIABLE]: server, TAP_TIMEOUT: String(FILE_LIMIT_MS / 1000) },
  })
  running.add(child)
  child.stdin.on('error', () => {}) // it has ended: the file that it should run next counts as failed
  const closed = once(child, 'close')
  const stderr = text(child.stderr)
  const timer = setTimeout(() => child.kill(), FILE_LIMIT_MS + KILL_AFTER_MS)
  let current: string | undefined
  let hasFailed = false
  let start = performance.now()
  let lines: string[] = []
  const runNext = (): void => {
    current = queue.shift()
    if (current === undefined) child.stdin.end()
    else child.stdin.write(`${current}\n`)
    start = performance.now()
    lines = []
    timer.refresh()
  }
  runNext()
  for await (const line of createInterface(child.stdout)) {
    lines.push(line)
    const file = /^(?:not )?ok \d+ - (\S+\.test\.ts)/.exec(line)?.[1]
    if (file === undefined) continue
    // Also what an earlier file threw after its end.
    const passed = !lines.some((line) => line.startsWith('not ok'))
    hasFailed ||= !passed
    record(file, passed, performance.now() - start, lines)
    runNext()
  }
  await closed
  clearTimeout(timer)
  running.delete(child)
  const failed = current ?? (child.exitCode !== 0 && !hasFailed ? 'the end of a worker' : undefined)
  if (failed !== undefined) record(failed, false, performance.now() - start, lines)
  if (await stderr) print(await stderr)
}

function record(file: string, passed: boolean, ms: number, lines: string[]): void {
  print(`${passed ? 'ok    ' : 'not ok'} ${(ms / 1000).toFixed(1).padStart(5)} s  ${file}`)
  if (!passed) print(failures(lines))
  const skipped = lines.flatMap((line) => {
    const [, name, reason] = /^\s*(?:ok \d+ - |1\.\.0 )(.*?) ?# SKIP (.*)$/.exec(line) ?? []
    return name === undefined ? [] : [`${name}: ${reason}`]
  })
  outcomes.push({ file, passed, skipped })
}

/** What a file wrote, without the tests that passed. */
function failures(tap: string[]): string {
  const lines = tap.filter((line) => !/^\s*ok \d/.test(line))
  const rest = lines.length - LONGEST_REPORT
  return rest > 0
    ? `${lines.slice(0, LONGEST_REPORT).join('\n')}\n… and ${rest} lines more`
    : lines.join('\n')
}

/** Whether all passed. */
function report(outcomes: Outcome[]): boolean {
  const failed = outcomes.filter(({ passed }) => !passed)
  for (const { file, skipped } of outcomes) for (const what of skipped) print(`skipped ${file}: ${what}`)
  for (const { file } of failed) print(`not ok ${file}`)
  const seconds = (performance.now() - start) / 1000
  print(`${files.length} test files in ${seconds.toFixed(0)} s`)
  print(`${outcomes.length - failed.length} passed, ${failed.length} failed`)
  return failed.length === 0 && outcomes.length === files.length
}

function print(line: string): void {
  process.stdout.write(`${line}\n`)
}
