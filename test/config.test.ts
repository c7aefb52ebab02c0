// The settings: their defaults, what they take, and the one line that refuses what they do not.

import { generateKeyPairSync } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { parseEnv } from 'node:util'
import type { TSchema } from '@sinclair/typebox'
import t, { type Test } from 'tap'
import { ConfigError, isOpen, parseConfig, SettingsSchema } from '../src/config.js'

const AGENT = 'agent-token-of-24-chars-'
const AGENT_2 = 'agent-token-of-24-chars2'
const ADMIN = 'admin-token-of-24-chars-'
const SINK = `whsec_${'A'.repeat(32)}`
const SECRET = 'a secret of 32 characters or more'

const DEFAULTS = {
  HOST: '127.0.0.1',
  PORT: 3000,
  DATA_DIR: '.data',
  DATABASE_POOL_MAX: 4,
  DATABASE_TRANSACTION_POOLING: false,
  MIGRATE_ON_START: true,
  REPLICA_NAME: hostname(),
  FLUSH_INTERVAL_MS: 60_000,
  SNAPSHOT_INTERVAL_MS: 1_800_000,
  ACK: 'memory',
  AGENT_TOKENS: [],
  ADMIN_TOKENS: [],
  BODY_LIMIT_BYTES: 4_194_304,
  RATE_LIMIT_PER_MINUTE: 0,
  EXACT_LIMIT: 100_000,
  SNAPSHOT_RETENTION_DAYS: 400,
  REQUEST_TIMEOUT_MS: 30_000,
  SHUTDOWN_TIMEOUT_MS: 10_000,
  TRUST_PROXY: false,
  LOG_LEVEL: 'info',
}

/** The message that refuses `env`; fails the test if it is accepted or the message is not one line. */
function refusal(t: Test, env: Record<string, string>): string {
  try {
    parseConfig(env)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    t.notMatch(error.message, '\n', 'is one line')
    return error.message
  }
  t.fail('was accepted', { env })
  return ''
}

/** A new key of that type or curve. */
function pem(kind: 'rsa' | 'ed25519' | 'P-256' | 'P-384' | 'secp256k1', half?: 'private'): string {
  const { publicKey, privateKey } =
    kind === 'rsa'
      ? generateKeyPairSync('rsa', { modulusLength: 2048 })
      : kind === 'ed25519'
        ? generateKeyPairSync('ed25519')
        : generateKeyPairSync('ec', { namedCurve: kind })
  const text =
    half === 'private'
      ? privateKey.export({ type: 'pkcs8', format: 'pem' })
      : publicKey.export({ type: 'spki', format: 'pem' })
  return text.toString()
}

t.test('with nothing set every setting has its default', async (t) => {
  t.strictSame(parseConfig({}), DEFAULTS)
})

t.test('a variable that is empty or blank counts as not set', async (t) => {
  const blank = Object.keys(SettingsSchema.properties).map((name, i) => [name, i % 2 ? '' : '  '])
  t.strictSame(parseConfig(Object.fromEntries(blank)), DEFAULTS)
})

t.test('variables that are no settings are ignored', async (t) => {
  t.strictSame(parseConfig({ PATH: '/bin', FLUSH_INTERVAL: '5', port: '80' }), DEFAULTS)
})

t.test('what is set is converted to its type, lists are split, spaces around it are cut', async (t) => {
  const set = {
    HOST: '0.0.0.0',
    PORT: ' 0 ',
    DATABASE_URL: 'postgres://user:password@host:5432/database',
    DATA_DIR: '/var/lib/usage',
    DATABASE_POOL_MAX: '100',
    DATABASE_TRANSACTION_POOLING: 'true',
    MIGRATE_ON_START: 'false',
    REPLICA_NAME: 'usage-0',
    FLUSH_INTERVAL_MS: '10',
    SNAPSHOT_INTERVAL_MS: '0',
    ACK: 'durable',
    AGENT_TOKENS: `${AGENT} , ${AGENT_2}`,
    ADMIN_TOKENS: ADMIN,
    AGENT_JWT_KEY: SECRET,
    AGENT_JWT_ALGORITHM: 'HS256',
    METRICS_TOKEN: 'metrics-token-of-24-char',
    BODY_LIMIT_BYTES: '1024',
    RATE_LIMIT_PER_MINUTE: '1000000',
    EXACT_LIMIT: '1',
    SNAPSHOT_RETENTION_DAYS: '36500',
    SINK_URL: 'https://sink.example/usage',
    SINK_SECRET: SINK,
    REQUEST_TIMEOUT_MS: '100',
    SHUTDOWN_TIMEOUT_MS: '600000',
    TRUST_PROXY: 'true',
    LOG_LEVEL: 'silent',
  }
  t.strictSame(Object.keys(set), Object.keys(SettingsSchema.properties), 'none is left out here')
  t.strictSame(parseConfig(set), {
    ...set,
    PORT: 0,
    DATABASE_POOL_MAX: 100,
    DATABASE_TRANSACTION_POOLING: true,
    MIGRATE_ON_START: false,
    FLUSH_INTERVAL_MS: 10,
    SNAPSHOT_INTERVAL_MS: 0,
    ACK: 'durable',
    AGENT_TOKENS: [AGENT, AGENT_2],
    ADMIN_TOKENS: [ADMIN],
    BODY_LIMIT_BYTES: 1024,
    RATE_LIMIT_PER_MINUTE: 1_000_000,
    EXACT_LIMIT: 1,
    SNAPSHOT_RETENTION_DAYS: 36_500,
    REQUEST_TIMEOUT_MS: 100,
    SHUTDOWN_TIMEOUT_MS: 600_000,
    TRUST_PROXY: true,
  })
})

t.test(
  'a whole number is taken from its least to its greatest and refused beyond and in other forms',
  async (t) => {
    for (const [name, schema] of Object.entries(SettingsSchema.properties)) {
      if (!('minimum' in schema && 'maximum' in schema)) continue
      const { minimum, maximum, takes } = schema
      if (minimum === undefined || maximum === undefined) throw new Error(`${name} has no bounds`)
      for (const fits of [minimum, maximum]) t.match(parseConfig({ [name]: String(fits) }), { [name]: fits })
      for (const beyond of [minimum - 1, maximum + 1])
        t.equal(refusal(t, { [name]: String(beyond) }), `${name}: got ${beyond}, takes ${takes}`)
      for (const form of ['many', '1e3', '0x400', '1500.5', '+1500', '1 500', '1500ms', 'Infinity'])
        t.equal(refusal(t, { [name]: form }), `${name}: got "${form}", takes ${takes}`)
    }
  },
)

t.test('SNAPSHOT_INTERVAL_MS takes 0 or at least a second', async (t) => {
  t.match(parseConfig({ SNAPSHOT_INTERVAL_MS: '1000' }), { SNAPSHOT_INTERVAL_MS: 1000 })
  for (const ms of [1, 999])
    t.equal(
      refusal(t, { SNAPSHOT_INTERVAL_MS: String(ms) }),
      `SNAPSHOT_INTERVAL_MS: got ${ms}, takes 0 or a whole number from 1000 to 86400000`,
    )
})

t.test('a switch takes true and false and nothing else', async (t) => {
  for (const name of ['MIGRATE_ON_START', 'TRUST_PROXY'])
    for (const word of ['yes', '1', 'True', 'on'])
      t.equal(refusal(t, { [name]: word }), `${name}: got "${word}", takes true or false`)
})

t.test('a choice takes one of its words', async (t) => {
  for (const level of ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
    t.match(parseConfig({ LOG_LEVEL: level }), { LOG_LEVEL: level })
  t.equal(
    refusal(t, { LOG_LEVEL: 'loud' }),
    'LOG_LEVEL: got "loud", takes one of trace, debug, info, warn, error, fatal, silent',
  )
  for (const algorithm of ['none', 'hs256', 'HS512'])
    t.equal(
      refusal(t, { AGENT_JWT_ALGORITHM: algorithm }),
      `AGENT_JWT_ALGORITHM: got "${algorithm}", takes one of HS256, RS256, ES256, EdDSA`,
    )
})

t.test('REPLICA_NAME takes 255 characters at the most', async (t) => {
  t.match(parseConfig({ REPLICA_NAME: 'x'.repeat(255) }), { REPLICA_NAME: 'x'.repeat(255) })
  const long = 'x'.repeat(256)
  t.equal(
    refusal(t, { REPLICA_NAME: long }),
    `REPLICA_NAME: got "${long}", takes a name of up to 255 characters`,
  )
})

t.test('a line break in a refused value does not break the line', async (t) => {
  t.match(refusal(t, { LOG_LEVEL: 'in\nfo' }), 'LOG_LEVEL: got "in\\nfo", takes one of')
})

t.test('DATABASE_URL takes a URL of PostgreSQL, also with several hosts', async (t) => {
  for (const url of [
    'postgres://user:password@host:5432/database',
    'postgresql://host/database',
    'postgres://user:p%40ss@one:5432,two:5433/database?sslmode=require',
    'postgres://user@[::1]:5432/database',
  ])
    t.match(parseConfig({ DATABASE_URL: url }), { DATABASE_URL: url })
})

t.test('a secret that does not fit is refused without a part of it in the message', async (t) => {
  const takes = {
    DATABASE_URL: 'postgres://user:password@host:port/database, several hosts separated by commas',
    tokens: 'tokens of 24 characters or more each, separated by commas',
    METRICS_TOKEN: 'a token of 24 characters or more',
  }
  const cases: [name: string, value: string, takes: string][] = [
    ['DATABASE_URL', 'mysql://root:hunter2@db.internal/usage', takes.DATABASE_URL],
    ['DATABASE_URL', 'hunter2', takes.DATABASE_URL],
    ['DATABASE_URL', 'postgres://root:hunter2@db.internal:port/usage', takes.DATABASE_URL],
    ['DATABASE_URL', 'postgres://root:hunter2%zz@db.internal/usage', takes.DATABASE_URL],
    ['AGENT_TOKENS', 'hunter2', takes.tokens],
    ['AGENT_TOKENS', `${AGENT},hunter2`, takes.tokens],
    ['AGENT_TOKENS', `${AGENT},`, takes.tokens],
    ['AGENT_TOKENS', `${AGENT} hunter2`, takes.tokens],
    ['ADMIN_TOKENS', 'hunter2', takes.tokens],
    ['METRICS_TOKEN', 'hunter2', takes.METRICS_TOKEN],
    ['METRICS_TOKEN', `hunter2 ${AGENT}`, takes.METRICS_TOKEN],
  ]
  for (const [name, value, takes] of cases) {
    const message = refusal(t, { [name]: value })
    t.equal(message, `${name}: got a value that does not fit, takes ${takes}`)
    t.notMatch(message, /hunter2|internal|agent-token/)
  }
})

t.test('without tokens access is open, on loopback addresses only', async (t) => {
  for (const host of ['127.0.0.1', '127.8.9.10', '::1', 'localhost'])
    t.equal(isOpen(parseConfig({ HOST: host })), true, host)
  for (const host of [
    '0.0.0.0',
    '::',
    '10.0.0.1',
    'usage.internal',
    '127.0.0.1.example.com',
    '127.evil',
    'localhost.example.com',
  ])
    t.equal(
      refusal(t, { HOST: host }),
      `HOST: got "${host}", takes a loopback address as long as AGENT_TOKENS and ADMIN_TOKENS are not set`,
    )
})

t.test('METRICS_TOKEN alone does not let the service listen elsewhere', async (t) => {
  t.match(refusal(t, { HOST: '0.0.0.0', METRICS_TOKEN: ADMIN }), /^HOST: got "0\.0\.0\.0", takes a loopback/)
})

t.test('with credentials for both roles any address will do, and access is not open', async (t) => {
  for (const agents of [
    { AGENT_TOKENS: AGENT },
    { AGENT_JWT_KEY: SECRET, AGENT_JWT_ALGORITHM: 'HS256' },
    { AGENT_TOKENS: AGENT, AGENT_JWT_KEY: SECRET, AGENT_JWT_ALGORITHM: 'HS256' },
  ])
    for (const host of ['0.0.0.0', '127.0.0.1'])
      t.equal(isOpen(parseConfig({ HOST: host, ADMIN_TOKENS: ADMIN, ...agents })), false)
})

t.test('credentials for one role and none for the other are refused, on loopback too', async (t) => {
  t.equal(
    refusal(t, { AGENT_TOKENS: AGENT }),
    'ADMIN_TOKENS: got nothing, needed when agents have credentials',
  )
  t.equal(
    refusal(t, { AGENT_JWT_KEY: SECRET, AGENT_JWT_ALGORITHM: 'HS256' }),
    'ADMIN_TOKENS: got nothing, needed when agents have credentials',
  )
  t.equal(
    refusal(t, { ADMIN_TOKENS: ADMIN }),
    'AGENT_TOKENS: got nothing, needed (or AGENT_JWT_KEY) with ADMIN_TOKENS',
  )
})

t.test('one token for both roles is refused', async (t) => {
  const message = refusal(t, { AGENT_TOKENS: `${AGENT},${ADMIN}`, ADMIN_TOKENS: ADMIN })
  t.equal(message, 'ADMIN_TOKENS: got a token that is also in AGENT_TOKENS, takes tokens of its own')
})

t.test("the JWT's key and algorithm come together or not at all", async (t) => {
  t.equal(
    refusal(t, { AGENT_JWT_KEY: SECRET, ADMIN_TOKENS: ADMIN }),
    'AGENT_JWT_ALGORITHM: got nothing, needed with AGENT_JWT_KEY',
  )
  t.equal(
    refusal(t, { AGENT_JWT_ALGORITHM: 'HS256', ADMIN_TOKENS: ADMIN }),
    'AGENT_JWT_KEY: got nothing, needed with AGENT_JWT_ALGORITHM',
  )
})

t.test('a public key is taken for its own algorithm, also in one line', async (t) => {
  for (const [algorithm, key] of [
    ['RS256', pem('rsa')],
    ['ES256', pem('P-256')],
    ['EdDSA', pem('ed25519')],
  ] as const) {
    const rest = { AGENT_JWT_ALGORITHM: algorithm, ADMIN_TOKENS: ADMIN }
    t.equal(parseConfig({ AGENT_JWT_KEY: key, ...rest }).AGENT_JWT_KEY, key.trim())
    const inOneLine = key.replaceAll('\n', '\\n')
    t.equal(parseConfig({ AGENT_JWT_KEY: inOneLine, ...rest }).AGENT_JWT_KEY, key)
  }
})

t.test('a key that its algorithm cannot use is refused, and not shown', async (t) => {
  const short = 'x'.repeat(31)
  for (const [algorithm, key, got] of [
    ['HS256', short, 'a PEM key or too short a secret'],
    ['HS256', pem('rsa'), 'a PEM key or too short a secret'],
    ['RS256', SECRET, 'a value that is no PEM key'],
    ['ES256', '-----BEGIN PUBLIC KEY-----\\nbroken\\n-----END PUBLIC KEY-----', 'a value that is no PEM key'],
    ['RS256', pem('P-256'), 'ec prime256v1'],
    ['ES256', pem('rsa'), 'rsa'],
    ['ES256', pem('P-384'), 'ec secp384r1'],
    ['ES256', pem('secp256k1'), 'ec secp256k1'],
    ['EdDSA', pem('P-256'), 'ec prime256v1'],
    ['RS256', pem('rsa', 'private'), 'a private key'],
    ['EdDSA', pem('ed25519', 'private'), 'a private key'],
  ] as const) {
    const takes =
      algorithm === 'HS256'
        ? 'a secret of 32 characters or more for HS256'
        : `a PEM public key for ${algorithm}`
    const message = refusal(t, {
      AGENT_JWT_KEY: key,
      AGENT_JWT_ALGORITHM: algorithm,
      ADMIN_TOKENS: ADMIN,
    })
    t.match(message, `AGENT_JWT_KEY: got ${got}`)
    t.ok(message.endsWith(`, takes ${takes}`), message)
    t.notOk(message.includes(key.split('\n')[1] ?? key), 'nothing of the key is in it')
  }
})

t.test(
  '.env.example lists the settings in order, each with its meaning, what it takes and its default',
  async (t) => {
    const listed = (await example())
      .split('\n\n')
      .slice(1)
      .map((entry) => {
        const lines = entry.trim().split('\n')
        const [, name, value] = /^#?([A-Z_]+)=(.*)$/.exec(lines.pop() ?? '') ?? []
        return { name, value, comment: lines }
      })
    const wanted = Object.entries<TSchema>(SettingsSchema.properties).map(([name, schema]) => ({
      name,
      // This machine's host name is nobody else's default.
      value: name === 'REPLICA_NAME' ? '' : String(schema.default ?? ''),
      comment: [`# ${schema.meaning}`, `# Takes ${schema.takes}.`],
    }))
    t.strictSame(listed, wanted)
  },
)

t.test('.env.example can be used as it is, and with every line of it taken in', async (t) => {
  const text = await example()
  t.strictSame(parseConfig(asEnv(text)), DEFAULTS)
  t.strictSame(parseConfig(asEnv(text.replaceAll(/^#(?=[A-Z_]+=)/gm, ''))), DEFAULTS)
})

function example(): Promise<string> {
  return readFile(new URL('../.env.example', import.meta.url), 'utf8')
}

/** Read as `.env` is. */
function asEnv(text: string): NodeJS.ProcessEnv {
  return { ...parseEnv(text) }
}

t.test('a sink wants a URL that can be used and a secret of the form of the specification', async (t) => {
  const url = 'https://sink.example/usage?key=1'
  t.match(parseConfig({ SINK_URL: url, SINK_SECRET: SINK }), { SINK_URL: url, SINK_SECRET: SINK })
  t.match(refusal(t, { SINK_URL: url }), /^SINK_SECRET: got nothing, needed with SINK_URL$/)
  t.match(refusal(t, { SINK_SECRET: SINK }), /^SINK_URL: got nothing, needed with SINK_SECRET$/)
  for (const bad of [
    'ftp://sink.example',
    'sink.example',
    'https://user:secret@sink.example',
    'https://[sink/',
  ])
    t.match(
      refusal(t, { SINK_URL: bad, SINK_SECRET: SINK }),
      /^SINK_URL: got a value that does not fit, takes https/,
    )
  for (const bad of ['secret', 'whsec_short', `${SINK}*`])
    t.match(
      refusal(t, { SINK_URL: url, SINK_SECRET: bad }),
      /^SINK_SECRET: got a value that does not fit, takes whsec_/,
    )
})
