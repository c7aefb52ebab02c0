// The commands: what each prints, where, and its exit status. Each kind of outcome occurs in a process of its own, too.

import { readFile } from 'node:fs/promises'
import t from 'tap'
import { SettingsSchema } from '../src/config.js'
import { lockSnapshots, testDatabase } from './helpers/database.js'
import { freePort } from './helpers/postgres.js'
import { runCommand, runHere, startProcess } from './helpers/process.js'
import { logs } from './helpers/replica.js'

t.jobs = 2

const AGENT = 'agent-token-5d41402abc4b2a76'
const ADMIN = 'admin-token-b9719d911017c592'
const OTHER = 'other-token-6f8db599de986fab'

t.test('--help and --version work with invalid settings', async (t) => {
  const help = await runCommand(t, ['--help'], { PORT: 'http' })
  t.hasStrict(help, { code: 0, stderr: '' })
  for (const word of ['migrate', 'migrate status', 'snapshot', '--url', 'check-config', '--version', '.env'])
    t.ok(help.stdout.includes(word), word)
  const longest = Math.max(...help.stdout.split('\n').map((line) => line.length))
  t.ok(longest <= 110, 'fits a terminal')

  const { version } = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8'))
  t.hasStrict(await runCommand(t, ['--version']), { code: 0, stdout: `${version}\n`, stderr: '' })
})

t.test('an invalid command or option exits with status 2 and one line', async (t) => {
  for (const [args, problem] of [
    [['migrate', 'down'], 'unknown command "migrate down"'],
    [['--port', '80'], "Unknown option '--port'"],
    [['--url'], "Option '--url <value>' argument missing"],
    [['--url', 'http://127.0.0.1'], '--url is only valid with snapshot'],
    [['snapshot', '--url', '127.0.0.1:3000'], 'invalid --url: expected http(s)://host[:port]'],
    [['check-config', 'migrate'], 'unknown command "check-config migrate"'],
  ] as const) {
    const expected = {
      code: 2,
      stdout: '',
      stderr: `boundary-usage: ${problem}; run with --help for the list of commands\n`,
    }
    t.hasStrict(await runHere([...args]), expected, args.join(' '))
    if (args[0] === '--port') t.hasStrict(await runCommand(t, [...args]), expected, 'as a process')
  }
})

t.test('check-config prints every setting, where its value comes from, and no secret', async (t) => {
  const secrets = {
    DATABASE_URL: 'postgres://someone:hunter2@db.internal/usage',
    AGENT_TOKENS: `${AGENT},${OTHER}`,
    ADMIN_TOKENS: ADMIN,
    AGENT_JWT_KEY: 'a secret of 32 characters or more',
    METRICS_TOKEN: 'metrics-token-d8578edf8458ce06',
    SINK_URL: 'https://sink.example/usage?key=4e732ced3463d06d',
    SINK_SECRET: `whsec_${'A'.repeat(32)}`,
  }
  t.strictSame(
    Object.keys(secrets),
    Object.entries(SettingsSchema.properties).flatMap(([name, schema]) => ('secret' in schema ? [name] : [])),
    'the list is complete',
  )
  const env = { ...secrets, AGENT_JWT_ALGORITHM: 'HS256', FLUSH_INTERVAL_MS: ' 2000 ' }
  const files = { '.env': 'SNAPSHOT_RETENTION_DAYS=30\nFLUSH_INTERVAL_MS=9\n' }
  const done = await runCommand(t, ['check-config'], env, files)
  t.hasStrict(done, { code: 0, stderr: '' })
  for (const [name, secret] of Object.entries(secrets))
    for (const part of secret.split(',')) t.notOk(done.stdout.includes(part), `${name} is not shown`)
  t.notMatch(done.stdout, /hunter2|internal|sink\.example/)

  const lines = done.stdout.trimEnd().split('\n')
  t.strictSame(
    lines.map((line) => line.slice(0, line.indexOf('='))),
    Object.keys(SettingsSchema.properties),
  )
  t.equal(new Set(lines.map((line) => line.search(/ {2}(set|default|not set)$/) >= 0)).size, 1)
  for (const line of [
    /^HOST=127\.0\.0\.1 +default$/m,
    /^PORT=0 +set$/m,
    /^FLUSH_INTERVAL_MS=2000 +set$/m,
    /^SNAPSHOT_RETENTION_DAYS=30 +set$/m,
    /^DATABASE_URL=\*+ +set$/m,
    /^AGENT_TOKENS=\*+,\*+ +set$/m,
    /^ADMIN_TOKENS=\*+ +set$/m,
    /^AGENT_JWT_ALGORITHM=HS256 +set$/m,
  ])
    t.match(done.stdout, line)
})

t.test(
  'check-config with an invalid setting prints one line without the secret and exits with status 1',
  async (t) => {
    for (const [env, line] of [
      [{ PORT: 'http' }, 'PORT: invalid value "http": expected an integer from 0 to 65535'],
      [
        { METRICS_TOKEN: 'hunter2' },
        'METRICS_TOKEN: invalid value: expected a token of at least 24 letters, digits and characters of -._~+/, with = only at its end',
      ],
    ] as const)
      for (const done of [await runHere(['check-config'], env), await runCommand(t, ['check-config'], env)])
        t.hasStrict(done, { code: 1, stdout: '', stderr: `boundary-usage: ${line}\n` })
  },
)

t.test('snapshot makes a running service take one, and prints it', async (t) => {
  const { url, sql } = await testDatabase(t)
  const service = await startProcess(t, {
    DATABASE_URL: url,
    AGENT_TOKENS: AGENT,
    ADMIN_TOKENS: `${ADMIN},${OTHER}`,
  })
  await service.send({ logs: logs(3, 2) }, { authorization: `Bearer ${AGENT}` })

  const done = await runCommand(t, ['snapshot', '--url', `${service.url}/`], { ADMIN_TOKEN: OTHER })
  t.hasStrict(done, { code: 0, stderr: '' })
  t.hasStrict(JSON.parse(done.stdout), { trigger: 'manual', allowed_requests: 3, denied_requests: 2 })

  const env = { PORT: String(service.port), AGENT_TOKENS: AGENT, ADMIN_TOKENS: ADMIN }
  const next = await runCommand(t, ['snapshot'], env)
  t.hasStrict(next, { code: 0, stderr: '' }, 'address and token come from the settings of the service')
  t.hasStrict(JSON.parse(next.stdout), {
    allowed_requests: 0,
    period_start: JSON.parse(done.stdout).period_end,
  })

  t.hasStrict(await runHere(['snapshot', '--url', service.url]), {
    code: 1,
    stdout: '',
    stderr: `boundary-usage: ${service.url} rejected the request without a token: set ADMIN_TOKEN to one of the service's ADMIN_TOKENS\n`,
  })
  t.hasStrict(await runHere(['snapshot', '--url', service.url], { ADMIN_TOKEN: 'hunter2' }), {
    code: 1,
    stdout: '',
    stderr: `boundary-usage: ${service.url} rejected this token: set ADMIN_TOKEN to one of the service's ADMIN_TOKENS\n`,
  })
  t.match(await runHere(['snapshot', '--url', service.url], { ADMIN_TOKEN: AGENT }), {
    code: 1,
    stderr: /responded with 403: admin token required/,
  })
  t.match(await runHere(['snapshot', '--url', `${service.url}/elsewhere`], { ADMIN_TOKEN: ADMIN }), {
    code: 1,
    stderr: /responded with 404: no such route/,
  })

  await sql.begin(async (other) => {
    await lockSnapshots(other)
    t.hasStrict(await runHere(['snapshot', '--url', service.url], { ADMIN_TOKEN: ADMIN }), {
      code: 1,
      stdout: '',
      stderr: `boundary-usage: ${service.url} responded with 409: another snapshot is being taken: retry in 1 second\n`,
    })
  })
  const [recorded] = await sql`select count(*)::int as n from telemetry_snapshots`
  t.equal(recorded?.n, 2, 'the failed commands took none')
})

t.test('snapshot without a running service explains what to do', async (t) => {
  const port = await freePort()
  t.hasStrict(await runHere(['snapshot'], { PORT: String(port) }), {
    code: 1,
    stdout: '',
    stderr: `boundary-usage: no response from http://127.0.0.1:${port} (ECONNREFUSED): start the service, or set its address with --url\n`,
  })
})
