// The demo and the agent as real processes: the figures they print are those that the service counted.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { testDatabase } from '../helpers/database.js'
import { freePort } from '../helpers/postgres.js'
import { FOR_TESTS } from '../helpers/process.js'
import { json, startReplica } from '../helpers/replica.js'
import { until } from '../helpers/until.js'

t.jobs = 2
/** Creating the demo's database and history takes long on a busy machine. */
const PATIENCE_MS = 120_000
t.setTimeout(PATIENCE_MS)

const TOKEN = 'agent-token-5d41402abc4b2a76'

interface Script {
  child: ChildProcess
  /** Resolves when it has written what `pattern` matches; rejects if it ends without. */
  until(pattern: RegExp): Promise<void>
  ended: Promise<{ code: number | null; stdout: string; stderr: string }>
}

/** Runs one of the scripts in a directory of its own, which it may use for temporary files. */
async function start(t: Test, name: string, args: string[], env: Record<string, string> = {}) {
  const file = fileURLToPath(new URL(name + extname(import.meta.url), import.meta.url))
  const loader = file.endsWith('.ts') ? ['--import', import.meta.resolve('tsx')] : []
  const home = await mkdtemp(join(tmpdir(), 'boundary-usage-test-'))
  const child = spawn(process.execPath, [...FOR_TESTS, ...loader, file, ...args], {
    cwd: home,
    env: { PATH: process.env.PATH, TMPDIR: home, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let [stdout, stderr] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const ended = once(child, 'close').then(() => ({ code: child.exitCode, stdout, stderr }))
  t.teardown(async () => {
    child.kill('SIGTERM')
    await ended
    await rm(home, { recursive: true, force: true })
  })
  const script: Script = {
    child,
    ended,
    async until(pattern) {
      await until(
        () => {
          if (child.exitCode !== null) throw new Error(`it ended:\n${stdout}${stderr}`)
          return pattern.test(stdout)
        },
        { what: `output that matches ${pattern}`, limit: PATIENCE_MS },
      )
    },
  }
  return { ...script, home }
}

t.test(
  'the demo runs until Ctrl-C, counts what its boundaries wrote, and leaves nothing behind',
  async (t) => {
    const demo = await start(t, 'demo', ['--people', '5'])
    await demo.until(/^\d+ workspaces? active.* [1-9]\d* frames: [1-9]/m)
    t.ok((await readdir(demo.home)).some((name) => name.startsWith('boundary-usage-')))

    demo.child.kill('SIGINT')
    demo.child.kill('SIGINT') // as npm does, beside the terminal
    const { code, stdout, stderr } = await demo.ended
    t.equal(code, 0, stdout + stderr)
    t.equal(stderr, '')
    t.match(stdout, /^Open http:\/\/127\.0\.0\.1:\d+\/#hour /m)
    const [, written] = /^The boundaries wrote: +([\d,]+ allowed, [\d,]+ denied)\.$/m.exec(stdout) ?? []
    const [, counted] = /^The service counted: +([\d,]+ allowed, [\d,]+ denied)\.$/m.exec(stdout) ?? []
    t.match(written, /^[1-9]/)
    t.equal(counted, written)
    t.match(stdout, /^They agree\.$/m)
    const left = (await readdir(demo.home)).filter((name) => name.startsWith('boundary-usage-'))
    t.strictSame(left, [], 'no directory is left')
  },
)

t.test('an agent sends the given number of logs with its token, and prints their counts', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, {
    AGENT_TOKENS: TOKEN,
    ADMIN_TOKENS: 'admin-token-b9719d911017c592',
  })
  const ids = ['--workspace', crypto.randomUUID(), '--owner', crypto.randomUUID()]
  const options = ['--url', replica.url, '--logs', '7', '--batches', '3', ...ids]
  const { code, stdout, stderr } = await (await start(t, 'agent', options, { AGENT_TOKEN: TOKEN })).ended
  t.hasStrict({ code, stderr }, { code: 0, stderr: '' }, stdout)
  const denied = await start(t, 'agent', [...options, '--deny', '1'], { AGENT_TOKEN: TOKEN })
  t.match((await denied.ended).stdout, '3 of 3 batches: 0 allowed, 21 denied\n')

  const preview = await json(
    replica.get('/telemetry/snapshot', { authorization: 'Bearer admin-token-b9719d911017c592' }),
  )
  t.hasStrict(preview, { unique_workspaces: 1, unique_users: 1 })
  t.equal(preview.allowed_requests + preview.denied_requests, 42)
  const first = `${preview.allowed_requests} allowed, ${preview.denied_requests - 21} denied`
  t.match(stdout, `3 of 3 batches: ${first}\n`)
})

t.test('npm run agent -- --help prints the options and exits with 0', async (t) => {
  for (const option of ['--help', '-h'])
    t.match(await (await start(t, 'agent', [option])).ended, {
      code: 0,
      stderr: '',
      stdout: /^usage: npm run agent -- \[options\].*\n {2}--url .*--deny/s,
    })
})

t.test('an agent whose batch is rejected for now sends it again, until Ctrl-C', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, { RATE_LIMIT_PER_MINUTE: '2' })
  const agent = await start(t, 'agent', ['--url', replica.url, '--logs', '5', '--batches', '3'])
  await agent.until(/^2 of 3 batches: .*, 1 refused \(1 RATE_LIMITED\)$/m)
  agent.child.kill('SIGINT')
  t.hasStrict(await agent.ended, { code: 0, stderr: '' })
  const { allowed_requests, denied_requests } = await json(replica.get('/telemetry/snapshot'))
  t.equal(allowed_requests + denied_requests, 10)
})

t.test('an agent that cannot send says what to do and exits with 1', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url, {
    AGENT_TOKENS: TOKEN,
    ADMIN_TOKENS: 'admin-token-b9719d911017c592',
  })
  const port = await freePort()
  for (const [options, env, stderr] of [
    [
      ['--url', replica.url],
      {},
      /^agent: answered 401: .*; set AGENT_TOKEN to one of the service's AGENT_TOKENS\n$/,
    ],
    [['--url', replica.url], { AGENT_TOKEN: 'hunter2' }, /^agent: answered 401: ((?!hunter2).)*\n$/],
    [['--url', `${replica.url}/elsewhere`], { AGENT_TOKEN: TOKEN }, /^agent: answered 404: no such route/],
    [
      ['--url', replica.url, '--workspace', 'mine'],
      { AGENT_TOKEN: TOKEN },
      /^agent: answered 400: \/workspace_id must be a UUID\n$/,
    ],
    [
      ['--url', `http://127.0.0.1:${port}`],
      {},
      `agent: no answer from http://127.0.0.1:${port} (ECONNREFUSED): is the service there?\n`,
    ],
  ] as const)
    t.match(await (await start(t, 'agent', [...options], env)).ended, { code: 1, stderr }, String(stderr))
  t.match(await (await start(t, 'agent', ['--logs', '0'])).ended, {
    code: 2,
    stderr: /^agent: --logs takes 1 to 1000\nusage: /,
  })
})
