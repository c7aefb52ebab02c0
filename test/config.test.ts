// The settings: their defaults, their valid values, and the one line that rejects an invalid value.

import { generateKeyPairSync } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { parseEnv } from 'node:util'
import type { TSchema } from '@sinclair/typebox'
import t, { type Test } from 'tap'
import {
  BLOCKED_PORTS,
  ConfigError,
  isOpen,
  parseConfig,
  resemblingNames,
  SettingsSchema,
} from '../src/config.js'

const AGENT = 'agent-token-of-24-chars-'
const AGENT_2 = 'agent-token-of-24-chars2'
const ADMIN = 'admin-token-of-24-chars-'
const SINK = `whsec_${'A'.repeat(32)}`
const NEXT_SINK = `whsec_${'B'.repeat(32)}`
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
  SNAPSHOT_GRACE_MS: 2_000,
  ACK: 'memory',
  AGENT_TOKENS: [],
  ADMIN_TOKENS: [],
  SINK_SECRET: [],
  BODY_LIMIT_BYTES: 1_048_576,
  RATE_LIMIT_PER_MINUTE: 0,
  EXACT_LIMIT: 100_000,
  NEW_IDS_LIMIT: 100_000,
  SNAPSHOT_RETENTION_DAYS: 400,
  SESSION_RETENTION_DAYS: 30,
  REQUEST_TIMEOUT_MS: 30_000,
  SHUTDOWN_TIMEOUT_MS: 10_000,
  SHUTDOWN_DELAY_MS: 0,
  TRUST_PROXY: false,
  LOG_LEVEL: 'info',
}

const TOKEN = 'a token of at least 24 letters, digits and characters of -._~+/, with = only at its end'

/** The message with which `env` is rejected; fails the test if it is accepted or the message is not one line. */
function rejection(t: Test, env: Record<string, string>): string {
  try {
    parseConfig(env)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    t.notMatch(error.message, '\n', 'one line')
    return error.message
  }
  t.fail('accepted', { env })
  return ''
}

/** Generates a key of the given type or curve. */
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

t.test('an empty environment gives every setting its default', async (t) => {
  t.strictSame(parseConfig({}), DEFAULTS)
})

t.test('an empty or blank variable counts as not set', async (t) => {
  const blank = Object.keys(SettingsSchema.properties).map((name, i) => [name, i % 2 ? '' : '  '])
  t.strictSame(parseConfig(Object.fromEntries(blank)), DEFAULTS)
})

t.test('variables that are not settings are ignored', async (t) => {
  t.strictSame(parseConfig({ PATH: '/bin', FLUSH_INTERVAL: '5', port: '80' }), DEFAULTS)
})

t.test('values are converted to their types, lists are split, surrounding spaces are removed', async (t) => {
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
    SNAPSHOT_GRACE_MS: '0',
    ACK: 'durable',
    AGENT_TOKENS: `${AGENT} , ${AGENT_2}`,
    ADMIN_TOKENS: ADMIN,
    AGENT_JWT_KEY: SECRET,
    AGENT_JWT_ALGORITHM: 'HS256',
    METRICS_TOKEN: 'metrics-token-of-24-char',
    BODY_LIMIT_BYTES: '1024',
    RATE_LIMIT_PER_MINUTE: '1000000',
    EXACT_LIMIT: '1',
    NEW_IDS_LIMIT: '0',
    SNAPSHOT_RETENTION_DAYS: '36500',
    SESSION_RETENTION_DAYS: '20',
    SINK_URL: 'https://sink.example/usage',
    SINK_SECRET: SINK,
    REQUEST_TIMEOUT_MS: '100',
    SHUTDOWN_TIMEOUT_MS: '600000',
    SHUTDOWN_DELAY_MS: '600000',
    TRUST_PROXY: 'true',
    LOG_LEVEL: 'silent',
  }
  t.strictSame(Object.keys(set), Object.keys(SettingsSchema.properties), 'the list is complete')
  t.strictSame(parseConfig(set), {
    ...set,
    PORT: 0,
    DATABASE_POOL_MAX: 100,
    DATABASE_TRANSACTION_POOLING: true,
    MIGRATE_ON_START: false,
    FLUSH_INTERVAL_MS: 10,
    SNAPSHOT_INTERVAL_MS: 0,
    SNAPSHOT_GRACE_MS: 0,
    ACK: 'durable',
    AGENT_TOKENS: [AGENT, AGENT_2],
    ADMIN_TOKENS: [ADMIN],
    SINK_SECRET: [SINK],
    BODY_LIMIT_BYTES: 1024,
    RATE_LIMIT_PER_MINUTE: 1_000_000,
    EXACT_LIMIT: 1,
    NEW_IDS_LIMIT: 0,
    SNAPSHOT_RETENTION_DAYS: 36_500,
    SESSION_RETENTION_DAYS: 20,
    REQUEST_TIMEOUT_MS: 100,
    SHUTDOWN_TIMEOUT_MS: 600_000,
    SHUTDOWN_DELAY_MS: 600_000,
    TRUST_PROXY: true,
  })
})

t.test(
  'an integer is accepted within its bounds and rejected outside of them or in another notation',
  async (t) => {
    for (const [name, schema] of Object.entries(SettingsSchema.properties)) {
      if (!('minimum' in schema && 'maximum' in schema)) continue
      const { minimum, maximum, expected } = schema
      if (minimum === undefined || maximum === undefined) throw new Error(`${name} has no bounds`)
      for (const valid of [minimum, maximum])
        t.hasStrict(parseConfig({ [name]: String(valid) }), { [name]: valid })
      for (const beyond of [minimum - 1, maximum + 1])
        t.equal(
          rejection(t, { [name]: String(beyond) }),
          `${name}: invalid value ${beyond}: expected ${expected}`,
        )
      for (const text of ['many', '1e3', '0x400', '1500.5', '+1500', '1 500', '1500ms', 'Infinity'])
        t.equal(rejection(t, { [name]: text }), `${name}: invalid value "${text}": expected ${expected}`)
    }
  },
)

t.test('SNAPSHOT_INTERVAL_MS is 0 or at least a second', async (t) => {
  t.hasStrict(parseConfig({ SNAPSHOT_INTERVAL_MS: '1000' }), { SNAPSHOT_INTERVAL_MS: 1000 })
  for (const ms of [1, 999])
    t.equal(
      rejection(t, { SNAPSHOT_INTERVAL_MS: String(ms) }),
      `SNAPSHOT_INTERVAL_MS: invalid value ${ms}: expected 0 or an integer from 1000 to 86400000`,
    )
})

t.test('a boolean is true or false and nothing else', async (t) => {
  for (const name of ['MIGRATE_ON_START', 'TRUST_PROXY'])
    for (const word of ['yes', '1', 'True', 'on'])
      t.equal(rejection(t, { [name]: word }), `${name}: invalid value "${word}": expected true or false`)
})

t.test('an enumerated setting accepts only its own values', async (t) => {
  for (const level of ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
    t.hasStrict(parseConfig({ LOG_LEVEL: level }), { LOG_LEVEL: level })
  t.equal(
    rejection(t, { LOG_LEVEL: 'loud' }),
    'LOG_LEVEL: invalid value "loud": expected one of trace, debug, info, warn, error, fatal, silent',
  )
  for (const algorithm of ['none', 'hs256', 'HS512'])
    t.equal(
      rejection(t, { AGENT_JWT_ALGORITHM: algorithm }),
      `AGENT_JWT_ALGORITHM: invalid value "${algorithm}": expected one of HS256, RS256, ES256, EdDSA`,
    )
})

t.test('REPLICA_NAME has at most 255 characters', async (t) => {
  t.hasStrict(parseConfig({ REPLICA_NAME: 'x'.repeat(255) }), { REPLICA_NAME: 'x'.repeat(255) })
  const long = 'x'.repeat(256)
  t.equal(
    rejection(t, { REPLICA_NAME: long }),
    `REPLICA_NAME: invalid value of 258 characters: expected a name of at most 255 characters`,
  )
})

t.test('a line break in an invalid value does not break the message', async (t) => {
  t.match(rejection(t, { LOG_LEVEL: 'in\nfo' }), 'LOG_LEVEL: invalid value "in\\nfo": expected one of')
})

t.test('DATABASE_URL accepts a PostgreSQL URL, also with several hosts', async (t) => {
  for (const url of [
    'postgres://user:password@host:5432/database',
    'postgresql://host/database',
    'postgres://user:p%40ss@one:5432,two:5433/database?sslmode=require',
    'postgres://user@[::1]:5432/database',
  ])
    t.hasStrict(parseConfig({ DATABASE_URL: url }), { DATABASE_URL: url })
})

t.test('an invalid secret is rejected without any part of it in the message', async (t) => {
  const expected = {
    DATABASE_URL: 'postgres://user:password@host:port/database; several hosts are separated by commas',
    tokens: `${TOKEN}; several are separated by commas`,
    METRICS_TOKEN: TOKEN,
  }
  const cases: [name: string, value: string, expected: string][] = [
    ['DATABASE_URL', 'mysql://root:hunter2@db.internal/usage', expected.DATABASE_URL],
    ['DATABASE_URL', 'hunter2', expected.DATABASE_URL],
    ['AGENT_TOKENS', 'hunter2', expected.tokens],
    ['AGENT_TOKENS', `${AGENT},hunter2`, expected.tokens],
    ['AGENT_TOKENS', `${AGENT},`, expected.tokens],
    ['AGENT_TOKENS', `${AGENT} hunter2`, expected.tokens],
    ['ADMIN_TOKENS', 'hunter2', expected.tokens],
    ['METRICS_TOKEN', 'hunter2', expected.METRICS_TOKEN],
    ['METRICS_TOKEN', `hunter2 ${AGENT}`, expected.METRICS_TOKEN],
  ]
  for (const [name, value, expected] of cases) {
    const message = rejection(t, { [name]: value })
    t.equal(message, `${name}: invalid value: expected ${expected}`)
    t.notMatch(message, /hunter2|internal|agent-token/)
  }
})

t.test('without tokens, access is open, on loopback addresses only', async (t) => {
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
      rejection(t, { HOST: host }),
      `HOST: invalid value "${host}": expected a loopback address unless AGENT_TOKENS and ADMIN_TOKENS are set`,
    )
})

t.test('METRICS_TOKEN alone does not allow other addresses', async (t) => {
  t.match(
    rejection(t, { HOST: '0.0.0.0', METRICS_TOKEN: ADMIN }),
    /^HOST: invalid value "0\.0\.0\.0": expected a loopback/,
  )
})

t.test('with credentials for both roles, any address is allowed and access is not open', async (t) => {
  for (const agents of [
    { AGENT_TOKENS: AGENT },
    { AGENT_JWT_KEY: SECRET, AGENT_JWT_ALGORITHM: 'HS256' },
    { AGENT_TOKENS: AGENT, AGENT_JWT_KEY: SECRET, AGENT_JWT_ALGORITHM: 'HS256' },
  ])
    for (const host of ['0.0.0.0', '127.0.0.1'])
      t.equal(isOpen(parseConfig({ HOST: host, ADMIN_TOKENS: ADMIN, ...agents })), false)
})

t.test('credentials for only one role are rejected, also on loopback addresses', async (t) => {
  t.equal(rejection(t, { AGENT_TOKENS: AGENT }), 'ADMIN_TOKENS: required with AGENT_TOKENS or AGENT_JWT_KEY')
  t.equal(
    rejection(t, { AGENT_JWT_KEY: SECRET, AGENT_JWT_ALGORITHM: 'HS256' }),
    'ADMIN_TOKENS: required with AGENT_TOKENS or AGENT_JWT_KEY',
  )
  t.equal(
    rejection(t, { ADMIN_TOKENS: ADMIN }),
    'AGENT_TOKENS: required with ADMIN_TOKENS, unless AGENT_JWT_KEY is set',
  )
})

t.test('a token shared by both roles is rejected', async (t) => {
  const message = rejection(t, { AGENT_TOKENS: `${AGENT},${ADMIN}`, ADMIN_TOKENS: ADMIN })
  t.equal(message, 'ADMIN_TOKENS: invalid value: expected tokens that are not also in AGENT_TOKENS')
})

t.test("the JWT's key and algorithm must be set together", async (t) => {
  t.equal(
    rejection(t, { AGENT_JWT_KEY: SECRET, ADMIN_TOKENS: ADMIN }),
    'AGENT_JWT_ALGORITHM: required with AGENT_JWT_KEY',
  )
  t.equal(
    rejection(t, { AGENT_JWT_ALGORITHM: 'HS256', AGENT_TOKENS: AGENT, ADMIN_TOKENS: ADMIN }),
    'AGENT_JWT_KEY: required with AGENT_JWT_ALGORITHM',
  )
})

t.test('a public key is accepted for its own algorithm, also on one line', async (t) => {
  for (const [algorithm, key] of [
    ['RS256', pem('rsa')],
    ['ES256', pem('P-256')],
    ['EdDSA', pem('ed25519')],
  ] as const) {
    const rest = { AGENT_JWT_ALGORITHM: algorithm, ADMIN_TOKENS: ADMIN }
    t.equal(parseConfig({ AGENT_JWT_KEY: key, ...rest }).AGENT_JWT_KEY, key.trim())
    const onOneLine = key.replaceAll('\n', '\\n')
    t.equal(parseConfig({ AGENT_JWT_KEY: onOneLine, ...rest }).AGENT_JWT_KEY, key)
  }
})

t.test('a key that does not match its algorithm is rejected and not shown', async (t) => {
  const short = 'x'.repeat(31)
  for (const [algorithm, key, problem] of [
    ['HS256', short, ''],
    ['HS256', pem('rsa'), ''],
    ['RS256', SECRET, ' (not a PEM key)'],
    ['ES256', '-----BEGIN PUBLIC KEY-----\\nbroken\\n-----END PUBLIC KEY-----', ' (not a PEM key)'],
    ['RS256', pem('P-256'), ' (ec prime256v1)'],
    ['ES256', pem('rsa'), ' (rsa)'],
    ['ES256', pem('P-384'), ' (ec secp384r1)'],
    ['ES256', pem('secp256k1'), ' (ec secp256k1)'],
    ['EdDSA', pem('P-256'), ' (ec prime256v1)'],
    ['RS256', pem('rsa', 'private'), ' (private key)'],
    ['EdDSA', pem('ed25519', 'private'), ' (private key)'],
  ] as const) {
    const expected =
      algorithm === 'HS256'
        ? 'a secret of at least 32 characters for HS256'
        : `a PEM public key for ${algorithm}`
    const message = rejection(t, {
      AGENT_JWT_KEY: key,
      AGENT_JWT_ALGORITHM: algorithm,
      ADMIN_TOKENS: ADMIN,
    })
    t.equal(message, `AGENT_JWT_KEY: invalid value${problem}: expected ${expected}`)
    t.notOk(message.includes(key.split('\n')[1] ?? key), 'contains no part of the key')
  }
})

t.test(
  '.env.example lists the settings in order, each with its description, valid values and default',
  async (t) => {
    const listed = (await example())
      .split('\n\n')
      .slice(1)
      .map((entry) => {
        const lines = entry.trim().split('\n')
        const [, name, value] = /^#?([A-Z_]+)=(.*)$/.exec(lines.pop() ?? '') ?? []
        return { name, value, comment: lines }
      })
    const expected = Object.entries<TSchema>(SettingsSchema.properties).map(([name, schema]) => ({
      name,
      // The default is this machine's host name.
      value: name === 'REPLICA_NAME' ? '' : String(schema.default ?? ''),
      comment: [`# ${schema.description}`, `# Expected: ${schema.expected}.`],
    }))
    t.strictSame(listed, expected)
  },
)

t.test('.env.example is valid as it is, and with every setting uncommented', async (t) => {
  const text = await example()
  t.strictSame(parseConfig(asEnv(text)), DEFAULTS)
  t.strictSame(parseConfig(asEnv(text.replaceAll(/^#(?=[A-Z_]+=)/gm, ''))), DEFAULTS)
})

function example(): Promise<string> {
  return readFile(new URL('../.env.example', import.meta.url), 'utf8')
}

/** Parses `text` as `.env` is parsed. */
function asEnv(text: string): NodeJS.ProcessEnv {
  return { ...parseEnv(text) }
}

t.test('a sink requires a valid URL and a secret as defined by Standard Webhooks', async (t) => {
  const url = 'https://sink.example/usage?key=1'
  for (const [given, secrets] of [
    [SINK, [SINK]],
    [`${SINK} ${NEXT_SINK}`, [SINK, NEXT_SINK]],
    [`${SINK},${NEXT_SINK}`, [SINK, NEXT_SINK]],
    [`${SINK} , ${NEXT_SINK}`, [SINK, NEXT_SINK]],
  ] as const) {
    const { SINK_URL, SINK_SECRET } = parseConfig({ SINK_URL: url, SINK_SECRET: given })
    t.strictSame({ SINK_URL, SINK_SECRET }, { SINK_URL: url, SINK_SECRET: secrets })
  }
  t.match(rejection(t, { SINK_URL: url }), /^SINK_SECRET: required with SINK_URL$/)
  t.match(rejection(t, { SINK_SECRET: SINK }), /^SINK_URL: required with SINK_SECRET$/)
  for (const bad of [
    'ftp://sink.example',
    'sink.example',
    'https://user:secret@sink.example',
    'https://[sink/',
  ])
    t.match(rejection(t, { SINK_URL: bad, SINK_SECRET: SINK }), /^SINK_URL: invalid value: expected https/)
  for (const bad of ['secret', 'whsec_short', `${SINK}*`, `${SINK};${SINK}`, `${SINK} ${SINK} ${SINK}`])
    t.match(rejection(t, { SINK_URL: url, SINK_SECRET: bad }), /^SINK_SECRET: invalid value: expected whsec_/)
})

t.test('all invalid settings are reported at once, each with what it accepts', async (t) => {
  t.throws(
    () =>
      parseConfig({
        PORT: 'http',
        FLUSH_INTERVAL_MS: '5s',
        AGENT_TOKENS: 'agent-token-agent-token-1',
        ADMIN_TOKENS: 'short',
        SINK_URL: 'https://sink.test:6000/',
      }),
    {
      message: [
        'PORT: invalid value "http": expected an integer from 0 to 65535',
        'FLUSH_INTERVAL_MS: invalid value "5s": expected an integer from 10 to 3600000',
        `ADMIN_TOKENS: invalid value: expected ${TOKEN}; several are separated by commas`,
        'SINK_URL: invalid value: expected another port than 6000, to which fetch does not connect',
      ].join('\n'),
    },
  )
})

t.test('a token that no client can send is rejected', async (t) => {
  const admin = 'admin-token-admin-token-1'
  for (const token of [
    '"quoted-token-quoted-token"',
    'tökentökentökentökentöken',
    'a=b'.repeat(10),
    `${admin}@`,
  ])
    t.throws(() => parseConfig({ AGENT_TOKENS: token, ADMIN_TOKENS: admin }), ConfigError, token)
  for (const token of ['abcdefghijklmnopqrstuvw==', '-._~+/0123456789ABCDEFGHIJ'])
    t.doesNotThrow(() => parseConfig({ AGENT_TOKENS: token, ADMIN_TOKENS: admin }), token)
})

t.test('SINK_URL refuses the ports that fetch refuses', async (t) => {
  const isBlocked = (port: number) =>
    fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(5_000) }).then(
      () => false,
      (error) => error.cause?.message === 'bad port',
    )
  for (const port of BLOCKED_PORTS) if (port !== '0') t.equal(await isBlocked(Number(port)), true, port)
  for (const port of ['2', '80', '443', '6668', '8080'])
    t.equal(await isBlocked(Number(port)), BLOCKED_PORTS.has(port))
})

t.test('a variable that resembles a setting is noticed, any other is not', async (t) => {
  const names = {
    FLUSH_INTERVAL: 'FLUSH_INTERVAL_MS',
    FLUSH_INTERVAL_SECONDS: 'FLUSH_INTERVAL_MS',
    FLUSH_INTREVAL_MS: 'FLUSH_INTERVAL_MS',
    flush_interval_ms: 'FLUSH_INTERVAL_MS',
    BOUNDARY_USAGE_FLUSH_INTERVAL_MS: 'FLUSH_INTERVAL_MS',
    DATABASE_POOL: 'DATABASE_POOL_MAX',
    DATABASEURL: 'DATABASE_URL',
    AGENT_TOKEN_S: 'AGENT_TOKENS',
  }
  for (const [name, setting] of Object.entries(names))
    t.strictSame(resemblingNames({ [name]: '1' }), [{ name, setting }])
  const others = [
    ...[
      'PATH',
      'HOME',
      'HOSTNAME',
      'LOGNAME',
      'PWD',
      'NODE_ENV',
      'NODE_OPTIONS',
      'TZ',
      'LANG',
      'LC_ALL',
      'TERM',
    ],
    ...['PGHOST', 'PGDATABASE', 'KUBERNETES_PORT', 'KUBERNETES_SERVICE_HOST', 'HTTP_PROXY', 'SSH_AUTH_SOCK'],
    ...[
      'BOUNDARY_USAGE_PORT_3000_TCP',
      'BOUNDARY_USAGE_URL',
      'BOUNDARY_USAGE_LOG_LEVEL',
      'ADMIN_TOKEN',
      'AGENT_TOKEN',
    ],
    ...['DATABASE_HOST', 'POSTGRES_PASSWORD', 'npm_config_cache', 'INIT_CWD'],
  ]
  for (const name of others) t.strictSame(resemblingNames({ [name]: '1' }), [], name)
})
