// npm test [-- FILE …]: compiles the test files and runs each in a process of its own, on one PostgreSQL server.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
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
/** The files that take longest, so that none of them runs alone at the end. */
const FIRST = [
  ...['faults/hostile', 'database/embedded', 'faults/cut-points', 'faults/end', 'faults/model', 'package'],
  ...['forwarder/faults', 'page/page', 'delivery/delivery', 'server', 'database/defaults', 'forwarder/spool'],
  ...['forwarder/end-to-end', 'database/migrate', 'faults/durable', 'counting/limits', 'demo/demo'],
].map((name) => join('test', `${name}.test.ts`))
/** Then a file gets SIGTERM, upon which tap names the tests that have not ended. */
const FILE_LIMIT_MS = 300_000

/** Lines that are shown of a file that failed. */
const LONGEST_REPORT = 200

const ROOT = fileURLToPath(new URL('..', import.meta.url))

interface Outcome {
  file: string
  passed: boolean
  seconds: number
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
await linkService()
await compileTests()
const scope = openScope()
const outcomes: Outcome[] = []
try {
  await Promise.all([preparePostgres(scope), (await needBrowser()) && prepareChromium(scope)])
  const server = await startShared(scope)
  const queue = files.values()
  await Promise.all(
    Array.from({ length: JOBS }, async () => {
      for (const file of queue) outcomes.push(await runFile(file, server))
    }),
  )
} finally {
  await scope.close()
}
process.exitCode = report(outcomes) ? 0 : 1

async function findFiles(): Promise<string[]> {
  const names = await readdir(join(ROOT, 'test'), { recursive: true })
  const files = names.filter((name) => name.endsWith('.test.ts')).map((name) => join('test', name))
  return [...FIRST, ...files.filter((file) => !FIRST.includes(file))]
}

async function needBrowser(): Promise<boolean> {
  const texts = await Promise.all(files.map((file) => readFile(join(ROOT, file), 'utf8')))
  return texts.some((text) => text.includes('startChromium'))
}

async function runFile(file: string, server: string): Promise<Outcome> {
  const start = performance.now()
  const child = spawn(process.execPath, ['--enable-source-maps', compiled(file)], {
    cwd: ROOT,
    env: { ...process.env, [SERVER_VARIABLE]: server, TAP_TIMEOUT: String(FILE_LIMIT_MS / 1000) },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: FILE_LIMIT_MS,
  })
  running.add(child)
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  running.delete(child)
  const seconds = (performance.now() - start) / 1000
  const passed = child.exitCode === 0
  print(`${passed ? 'ok    ' : 'not ok'} ${seconds.toFixed(1).padStart(5)} s  ${file}`)
  if (!passed) print(failures(stdout))
  if (stderr) print(stderr)
  const skipped = [...stdout.matchAll(/^\s*(?:ok \d+ - |1\.\.0 )(.*?) ?# SKIP (.*)$/gm)]
  return { file, passed, seconds, skipped: skipped.map(([, name, reason]) => `${name}: ${reason}`) }
}

/** What a file wrote, without the tests that passed. */
function failures(tap: string): string {
  const lines = tap.split('\n').filter((line) => !/^\s*ok \d/.test(line))
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
