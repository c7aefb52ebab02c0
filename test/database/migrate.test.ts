// The command migrate: on an empty database, an old one, one in use and none at all.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { testDatabase } from '../helpers/database.js'
import { migrationNames } from '../helpers/migrations.js'
import { freePort } from '../helpers/postgres.js'
import { runCommand, runHere, startProcess } from '../helpers/process.js'

t.jobs = 2

const listed = (state: string, names: string[]) => names.map((name) => `${state}  ${name}\n`).join('')

t.test(
  'migrate applies and lists the pending migrations; status lists them and changes nothing',
  async (t) => {
    const { url, sql } = await testDatabase(t, { unmigrated: true })
    const env = { DATABASE_URL: url }
    const names = await migrationNames()
    const schemas = () => sql`select 1 from pg_namespace where nspname = 'drizzle'`

    t.hasStrict(await runHere(['migrate', 'status'], env), {
      code: 1,
      stdout: listed('pending', names),
      stderr: '',
    })
    t.equal((await schemas()).length, 0)
    t.hasStrict(await runCommand(t, ['migrate'], env), {
      code: 0,
      stdout: listed('applied', names),
      stderr: '',
    })
    t.hasStrict(await runHere(['migrate', 'status'], env), {
      code: 0,
      stdout: listed('applied', names),
      stderr: '',
    })
    t.hasStrict(await runHere(['migrate'], env), {
      code: 0,
      stdout: 'no pending migrations\n',
      stderr: '',
    })

    // As before an upgrade: the last migration is pending.
    await sql`delete from boundary_usage_migrations where name = ${names.at(-1) ?? ''}`
    t.hasStrict(await runHere(['migrate', 'status'], env), {
      code: 1,
      stdout: listed('applied', names.slice(0, -1)) + listed('pending', names.slice(-1)),
    })
  },
)

t.test(
  'of several migrate commands at once, one applies the migrations and the others find none pending',
  async (t) => {
    const { url } = await testDatabase(t, { unmigrated: true })
    const done = await Promise.all([1, 2, 3].map(() => runCommand(t, ['migrate'], { DATABASE_URL: url })))
    t.strictSame(
      done.map(({ code }) => code),
      [0, 0, 0],
    )
    const applied = listed('applied', await migrationNames())
    t.equal(done.filter(({ stdout }) => stdout === applied).length, 1)
    t.equal(done.filter(({ stdout }) => stdout === 'no pending migrations\n').length, 2)
  },
)

t.test('migrate reports a failure in one line, without the password', async (t) => {
  const port = await freePort()
  t.hasStrict(
    await runCommand(t, ['migrate'], { DATABASE_URL: `postgres://someone:hunter2@127.0.0.1:${port}/usage` }),
    {
      code: 1,
      stdout: '',
      stderr: `boundary-usage: the database is unavailable: connect ECONNREFUSED 127.0.0.1:${port}\n`,
    },
  )
  const { url } = await testDatabase(t)
  const wrong = new URL(url)
  wrong.password = 'hunter2'
  t.hasStrict(await runHere(['migrate', 'status'], { DATABASE_URL: String(wrong) }), {
    code: 1,
    stdout: '',
    stderr: 'boundary-usage: password authentication failed for user "postgres"\n',
  })
})

t.test(
  'status creates no embedded database, migrate does, and neither uses one that a service has open',
  async (t) => {
    const names = await migrationNames()
    const looked = await runCommand(t, ['migrate', 'status'])
    t.hasStrict(looked, { code: 1, stdout: listed('pending', names), stderr: '' })
    t.notOk(existsSync(join(looked.home, '.data')))

    const env = { DATA_DIR: join(looked.home, '.data') }
    const made = await runCommand(t, ['migrate'], env)
    t.hasStrict(made, { code: 0, stdout: listed('applied', names) })
    t.match(made.stderr, /^creating the embedded PostgreSQL/)
    t.hasStrict(await runCommand(t, ['migrate', 'status'], env), {
      code: 0,
      stdout: listed('applied', names),
    })

    const service = await startProcess(t, { ...env, MIGRATE_ON_START: 'false' })
    const second = await runCommand(t, ['migrate'], env)
    t.hasStrict(second, { code: 1, stdout: '' })
    t.match(second.stderr, /^boundary-usage: DATA_DIR: .* is in use by another boundary-usage: stop it/)
    t.equal((await service.send()).status, 202, 'which it does not disturb')
  },
)
