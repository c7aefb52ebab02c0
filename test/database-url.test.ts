// DATABASE_URL follows libpq's rules: what it may hold, and what becomes of it on a real server.

import { execFileSync } from 'node:child_process'
import { chmod, chown, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql as drizzleSql, type SQL } from 'drizzle-orm'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { parseConfig } from '../src/config.js'
import { connectDatabase } from '../src/database/client.js'
import { type ConnectionOptions, parseDatabaseUrl } from '../src/database-url.js'
import { testDatabase } from './helpers/database.js'
import { type PostgresServer, startPostgres, unprivileged } from './helpers/postgres.js'
import { startProcess } from './helpers/process.js'

const HOSTS: [url: string, expected: Partial<ConnectionOptions>][] = [
  ['postgres://', { host: undefined, port: undefined, user: undefined, database: undefined }],
  ['postgresql://h', { host: ['h'], port: [5432], user: undefined, password: undefined }],
  [
    'postgres://u%40x:p%3A%2F%3f%25@h:1/d%20b',
    { host: ['h'], port: [1], user: 'u@x', password: 'p:/?%', database: 'd b' },
  ],
  ['postgres://[::1]/d', { host: ['::1'], port: [5432], database: 'd' }],
  [
    'postgres://[2001:db8::1]:5433,[fe80::1%25eth0]/d',
    { host: ['2001:db8::1', 'fe80::1%eth0'], port: [5433, 5432] },
  ],
  [
    'postgres://a:1,b,c:3/d',
    { host: ['a', 'b', 'c'], port: [1, 5432, 3], database: 'd', target_session_attrs: 'primary' },
  ],
  ['postgres://a,b/d?target_session_attrs=any', { host: ['a', 'b'], target_session_attrs: undefined }],
  ['postgres:///d?host=a,b&port=1,2', { host: ['a', 'b'], port: [1, 2], database: 'd' }],
  ['postgres:///d?host=a,b&port=7', { host: ['a', 'b'], port: [7, 7] }],
  ['postgres:///d?host=/run/postgresql', { host: ['/run/postgresql/.s.PGSQL.5432'], database: 'd' }],
  [
    'postgres://u:p@%2Frun%2Fpostgresql:5433/d',
    { host: ['/run/postgresql/.s.PGSQL.5433'], user: 'u', password: 'p' },
  ],
  ['postgres://%2Frun,h:2/d', { host: ['/run/.s.PGSQL.5432', 'h'], port: [5432, 2] }],
  ['postgres://@/d?user=u&password=p%26&dbname=e', { user: 'u', password: 'p&', database: 'e' }],
  ['postgres://h/d?sslmode=disable', { ssl: false }],
  ['postgres://h/d', { ssl: 'prefer' }],
  ['postgres://h/d?sslmode=allow', { ssl: 'prefer' }],
  ['postgres://h/d?sslnegotiation=direct&sslmode=require', { sslnegotiation: 'direct' }],
  ['postgres://h/d?connect_timeout=7', { connect_timeout: 7 }],
  ['postgres://h/d?connect_timeout=0', { connect_timeout: undefined }],
  ['postgres://h/d?keepalives=0', { keep_alive: null }],
  ['postgres://h/d?keepalives_idle=9&keepalives_interval=1&keepalives_count=3', { keep_alive: 9 }],
  ['postgres://h/d?application_name=a%20b', { connection: { application_name: 'a b' } }],
  ['postgres://h/d?options=-c%20search_path%3Done', { connection: { options: '-c search_path=one' } }],
  ['postgres://h/d?channel_binding=prefer&gssencmode=disable&client_encoding=LATIN1', { connection: {} }],
]

t.test('hosts, names, ports and parameters are read as libpq reads them', async (t) => {
  for (const [url, expected] of HOSTS) {
    const options: Record<string, unknown> = { ...parseDatabaseUrl(url) }
    for (const [name, value] of Object.entries(expected))
      t.strictSame(options[name], value, `${url}: ${name}`)
  }
})

const REFUSED: [url: string, message: RegExp][] = [
  ['postgres://u:hunter2@h/d?pgbouncer=true', /^unknown or unsupported parameter "pgbouncer"$/],
  ['postgres://u:hunter2@h/d?statement_timeout=5', /^unknown or unsupported parameter "statement_timeout"$/],
  ['postgres://u:hunter2@h/d?passfile=x', /^unknown or unsupported parameter "passfile"$/],
  ['postgres://u:hunter2@h/d?channel_binding=require', /^channel_binding: expected one of disable, prefer$/],
  ['postgres://u:hunter2@h/d?gssencmode=require', /^gssencmode: expected one of disable, prefer$/],
  [
    'postgres://u:hunter2@h/d?sslmode=strict',
    /^sslmode: expected one of disable, allow, prefer, require, verify-ca, verify-full$/,
  ],
  [
    'postgres://u:hunter2@h/d?sslmode=verify-full&sslrootcert=/no/such/file',
    /^sslrootcert: cannot read \/no\/such\/file \(ENOENT\)$/,
  ],
  [
    'postgres://u:hunter2@h/d?sslmode=require&sslrootcert=system',
    /^sslrootcert=system needs sslmode=verify-full$/,
  ],
  ['postgres://u:hunter2@h:port/d', /^invalid port$/],
  ['postgres://u:hunter2@h:70000/d', /^invalid port$/],
  ['postgres://u:hunter2@::1/d', /^invalid host; an IPv6 address needs brackets$/],
  ['postgres://u:hunter2@a,b,c/d?port=1,2', /^2 ports for 3 hosts$/],
  ['postgres://u:hunter2%zz@h/d', /^invalid percent-encoding$/],
  ['postgres://u:hunter?hunter2@h/d', /^a parameter has no value$/],
  ['postgres://h/d?hunter2', /^a parameter has no value$/],
  ['postgres://h/d?connect_timeout=soon', /^connect_timeout: expected a number of seconds$/],
]

t.test('what cannot be honoured is refused by name at start, without a secret', async (t) => {
  for (const [url, message] of REFUSED) {
    t.throws(() => parseDatabaseUrl(url), { message })
    t.throws(() => parseConfig({ DATABASE_URL: url }), { message: /^DATABASE_URL: (?!.*hunter)/ })
  }
  const service = await startProcess(
    t,
    { DATABASE_URL: 'postgres://u:hunter2@127.0.0.1:1/d?pgbouncer=true' },
    { until: 'spawned' },
  )
  t.strictSame(await service.exited, { code: 1, signal: null })
  t.equal(service.stderr, 'boundary-usage: DATABASE_URL: unknown or unsupported parameter "pgbouncer"\n')
})

/** What a connection by that URL reads. */
async function query(url: string, statement: SQL): Promise<Record<string, unknown>> {
  const database = connectDatabase({ target: { url }, poolMax: 1 })
  try {
    const [row] = await database.run((db) => db.execute(statement))
    return { ...row }
  } finally {
    await database.close()
  }
}

t.test('client-side parameters are not sent to the server, and names may hold anything', async (t) => {
  const { url, sql } = await testDatabase(t, { altered: true })
  const role = `r:@/?% ${process.pid}`
  await sql.unsafe(`create role "${role}" login password 'p:@/?#% &='`)
  t.teardown(() => sql.unsafe(`drop role "${role}"`))
  const { host, pathname } = new URL(url)
  const all =
    'sslmode=prefer&channel_binding=prefer&gssencmode=prefer&keepalives=1&keepalives_idle=30&keepalives_interval=10' +
    '&keepalives_count=3&tcp_user_timeout=0&connect_timeout=5&load_balance_hosts=disable&client_encoding=auto' +
    '&fallback_application_name=x&target_session_attrs=read-write&krbsrvname=postgres&application_name=named' +
    '&options=-c%20search_path%3Done'
  const named = `postgres://${encodeURIComponent(role)}:${encodeURIComponent('p:@/?#% &=')}@${host}${pathname}?${all}`
  const row = await query(
    named,
    drizzleSql`select current_user as role, current_setting('search_path') as path,
      current_setting('application_name') as name`,
  )
  t.strictSame(row, { role, path: 'one', name: 'named' })
})

t.test('unix sockets, in both spellings, and beside a host', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'boundary-usage-test-'))
  await chmod(directory, 0o777)
  const server = await startPostgres({ unix_socket_directories: directory })
  t.teardown(async () => {
    await server.remove()
    await rm(directory, { recursive: true, force: true })
  })
  const { password, port } = new URL(server.url)
  const encoded = encodeURIComponent(directory)
  for (const url of [
    `postgres://postgres:${password}@/postgres?host=${directory}&port=${port}`,
    `postgres://postgres:${password}@${encoded}:${port}/postgres`,
    `postgres://postgres:${password}@${encoded}:${port}/postgres?sslmode=require`, // which sockets ignore
    `postgres://postgres:${password}@127.0.0.1:1,${encoded}:${port}/postgres`,
  ]) {
    const row = await query(url, drizzleSql`select inet_client_addr() is null as local`)
    t.strictSame(row, { local: true }, url)
  }
})

const skip = hasOpenssl() ? false : 'openssl is not installed'

function hasOpenssl(): boolean {
  try {
    execFileSync('openssl', ['version'])
    return true
  } catch {
    return false
  }
}

/** Makes a certificate, signed by `ca` or by itself; returns the path without its extension. */
function certify(home: string, name: string, subject: string, names: string, ca?: string): string {
  const path = join(home, name)
  const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: 'pipe' })
  openssl(
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
    ...['-keyout', `${path}.key`, '-out', `${path}.crt`, '-subj', `/CN=${subject}`],
    ...(names ? ['-addext', `subjectAltName=${names}`] : []),
    ...(ca
      ? ['-CA', `${ca}.crt`, '-CAkey', `${ca}.key`, '-addext', 'basicConstraints=critical,CA:FALSE']
      : []),
  )
  return path
}

/** Gives the server a certificate, and requires TLS of all but those that `hba` allows. */
async function useTls(server: PostgresServer, certificate: string, ca: string): Promise<void> {
  const data = join(server.home, 'data')
  const who = await unprivileged()
  const files = {
    'server.key': `${certificate}.key`,
    'server.crt': `${certificate}.crt`,
    'root.crt': `${ca}.crt`,
  }
  for (const [name, source] of Object.entries(files)) {
    await writeFile(join(data, name), await readFile(source), { mode: 0o600 })
    if (who) await chown(join(data, name), who.uid, who.gid)
  }
  const hba = 'hostssl all certified all cert\nhostssl all all all scram-sha-256\n'
  await writeFile(join(data, 'pg_hba.conf'), hba)
  const conf = await readFile(join(data, 'postgresql.auto.conf'), 'utf8')
  await writeFile(join(data, 'postgresql.auto.conf'), `${conf}ssl = 'on'\nssl_ca_file = 'root.crt'\n`)
  await server.stop()
  await server.start()
}

t.test('TLS in every sslmode, for names and for addresses', { skip }, async (t) => {
  const home = await mkdtemp(join(tmpdir(), 'boundary-usage-test-'))
  t.teardown(() => rm(home, { recursive: true, force: true }))
  const ca = certify(home, 'ca', 'Test CA', '')
  const stranger = certify(home, 'stranger', 'Another CA', '')
  const client = certify(home, 'client', 'certified', '', ca)
  const isEncrypted = drizzleSql`select ssl, current_user as role from pg_stat_ssl where pid = pg_backend_pid()`

  const check = async (t: Test, url: string, encrypted: boolean) => {
    if (encrypted) t.hasStrict(await query(url, isEncrypted), { ssl: true }, url.replace(/:[^:@]*@/, ':…@'))
    else await t.rejects(query(url, isEncrypted), url.replace(/:[^:@]*@/, ':…@'))
  }
  for (const [names, right, wrong] of [
    ['IP:127.0.0.1', '127.0.0.1', 'localhost'],
    ['DNS:localhost', 'localhost', '127.0.0.1'],
  ] as const)
    await t.test(`a certificate for ${names}`, async (t) => {
      const server = await startPostgres()
      t.teardown(() => server.remove())
      const admin = postgres(server.url, { max: 1 })
      await admin`create role certified login`
      await admin.end()
      await useTls(server, certify(home, names.replace(/\W/g, '-'), 'server', names, ca), ca)
      const at = (host: string, parameters: string) =>
        `${server.url.replace('@127.0.0.1:', `@${host}:`)}?${parameters}`
      const root = `sslrootcert=${ca}.crt`
      const other = `sslrootcert=${stranger}.crt`

      await check(t, at(right, 'sslmode=disable'), false)
      for (const mode of ['allow', 'prefer', 'require']) await check(t, at(right, `sslmode=${mode}`), true)
      await check(t, at(right, 'ssl=true'), true)
      await check(t, at(right, ''), true)
      await check(t, at(right, `sslmode=require&${root}`), true)
      await check(t, at(right, `sslmode=require&${other}`), false)
      await check(t, at(right, `sslmode=verify-ca&${root}`), true)
      await check(t, at(wrong, `sslmode=verify-ca&${root}`), true)
      await check(t, at(right, `sslmode=verify-ca&${other}`), false)
      await check(t, at(right, `sslmode=verify-full&${root}`), true)
      await check(t, at(wrong, `sslmode=verify-full&${root}`), false)
      await check(t, at(right, 'sslmode=verify-full'), false)
      await check(t, at(right, 'sslrootcert=system'), false)

      const certified = at(
        right,
        `sslmode=verify-full&${root}&sslcert=${client}.crt&sslkey=${client}.key&user=certified`,
      )
      t.strictSame(await query(certified, isEncrypted), { ssl: true, role: 'certified' })
    })
})
