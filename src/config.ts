// The settings: one schema, read from the environment and validated before the service starts.

import { createPublicKey } from 'node:crypto'
import { existsSync } from 'node:fs'
import { isIP } from 'node:net'
import { hostname } from 'node:os'
import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { Ajv } from 'ajv'
import { DatabaseUrlError, parseDatabaseUrl } from './database-url.js'
import { StartError } from './start-error.js'

const integer = (fallback: number, minimum: number, maximum: number, description: string) =>
  Type.Integer({
    default: fallback,
    minimum,
    maximum,
    expected: `an integer from ${minimum} to ${maximum}`,
    description,
  })

/** Required unless it has a default. */
const oneOf = <const T extends string>(values: readonly T[], description: string, fallback?: T) =>
  Type.Unsafe<T>({
    type: 'string',
    enum: values,
    expected: `one of ${values.join(', ')}`,
    description,
    ...(fallback !== undefined && { default: fallback }),
  })

const bool = (fallback: boolean, description: string) =>
  Type.Boolean({ default: fallback, expected: 'true or false', description })

const text = (
  expected: string,
  description: string,
  options: { default?: string; pattern?: string; maxLength?: number; secret?: boolean } = {},
) => Type.String({ minLength: 1, expected, description, ...options })

/** The form of a bearer token that clients can send (b64token, RFC 6750 section 2.1). */
const TOKEN = {
  pattern: '(?=[^\\s,]{24})[A-Za-z0-9._~+/-]+=*',
  expected: 'a token of at least 24 letters, digits and characters of -._~+/, with = only at its end',
}

const tokens = (description: string) =>
  text(`${TOKEN.expected}; several are separated by commas`, description, {
    pattern: `^${TOKEN.pattern}(\\s*,\\s*${TOKEN.pattern})*$`,
    secret: true,
  })

const SINK_SECRET = 'whsec_[A-Za-z0-9+/]{32,}={0,2}'
/** Between the values of a list, none of which contains a comma or a space. */
const SEPARATOR = '(?:\\s*,\\s*|\\s+)'

/** Every setting: its type, default, valid values and description. `.env.example` and docs/operating.md list the same. */
export const SettingsSchema = Type.Object({
  HOST: text('an IP address or host name', 'Address to listen on.', { default: '127.0.0.1' }),
  PORT: integer(3000, 0, 65535, 'Port to listen on; 0 selects a free one.'),
  DATABASE_URL: Type.Optional(
    text(
      'postgres://user:password@host:port/database; several hosts are separated by commas',
      'PostgreSQL server. Without it, the service runs an embedded PostgreSQL in DATA_DIR.',
      { pattern: '^postgres(ql)?://.+', secret: true },
    ),
  ),
  DATA_DIR: text(
    'a directory',
    'Data directory of the embedded PostgreSQL; one replica at a time can use it.',
    {
      default: '.data',
    },
  ),
  DATABASE_POOL_MAX: integer(
    4,
    1,
    100,
    'Maximum number of connections to PostgreSQL, one of which is for flushes alone.',
  ),
  DATABASE_TRANSACTION_POOLING: bool(false, 'Whether DATABASE_URL is a PgBouncer in transaction mode.'),
  MIGRATE_ON_START: bool(true, 'Whether to apply pending migrations at startup, under a lock.'),
  REPLICA_NAME: text(
    'a name of at most 255 characters',
    'Human-readable label of this replica. Defaults to the host name.',
    { default: hostname(), maxLength: 255 },
  ),
  FLUSH_INTERVAL_MS: integer(60_000, 10, 3_600_000, 'Time between two flushes, in milliseconds.'),
  SNAPSHOT_INTERVAL_MS: Type.Integer({
    default: 1_800_000,
    minimum: 0,
    maximum: 86_400_000,
    expected: '0 or an integer from 1000 to 86400000',
    description: 'Time between two scheduled snapshots, in milliseconds; 0 disables them.',
    not: { minimum: 1, maximum: 999 },
  }),
  SNAPSHOT_GRACE_MS: integer(
    2_000,
    0,
    30_000,
    'How long a snapshot waits for replicas that have not reported, in milliseconds; 0: not at all.',
  ),
  ACK: oneOf(
    ['memory', 'durable'],
    'When a batch is acknowledged: once it is counted in memory, or once it is committed to the database.',
    'memory',
  ),
  AGENT_TOKENS: Type.Optional(tokens('Bearer tokens of agents.')),
  ADMIN_TOKENS: Type.Optional(tokens('Bearer tokens of admins.')),
  AGENT_JWT_KEY: Type.Optional(
    text(
      'a PEM public key, or, for HS256, a secret of at least 32 characters',
      "Key that verifies agents' JWTs.",
      { secret: true },
    ),
  ),
  AGENT_JWT_ALGORITHM: Type.Optional(
    oneOf(
      ['HS256', 'RS256', 'ES256', 'EdDSA'],
      "The algorithm of agents' JWTs; all others are rejected. Required with AGENT_JWT_KEY.",
    ),
  ),
  METRICS_TOKEN: Type.Optional(
    text(TOKEN.expected, 'Bearer token for /metrics; without it, /metrics is open.', {
      pattern: `^${TOKEN.pattern}$`,
      secret: true,
    }),
  ),
  BODY_LIMIT_BYTES: integer(
    1_048_576,
    1024,
    67_108_864,
    'Maximum size of a request body, before and after decompression.',
  ),
  RATE_LIMIT_PER_MINUTE: integer(
    0,
    0,
    1_000_000,
    'Maximum number of batches per minute and credential; 0 disables the limit.',
  ),
  EXACT_LIMIT: integer(
    100_000,
    1,
    10_000_000,
    'Number of workspaces, and of users, up to which a replica counts exactly; beyond it, it estimates.',
  ),
  NEW_IDS_LIMIT: integer(
    100_000,
    0,
    10_000_000,
    'Maximum number of new workspaces, and of new users, per credential and period; beyond it, requests are counted and ids are not; 0 disables the limit.',
  ),
  SNAPSHOT_RETENTION_DAYS: integer(400, 1, 36_500, 'Number of days for which snapshots are kept.'),
  SESSION_RETENTION_DAYS: integer(
    30,
    20,
    36_500,
    "Number of days for which a session's numbers are remembered after its last log.",
  ),
  SINK_URL: Type.Optional(
    text(
      'https://host/path or http://host/path, without a user name',
      'URL to which every snapshot is delivered; without it, nothing leaves the machine.',
      { pattern: '^https?://[^\\s@]+$', secret: true },
    ),
  ),
  SINK_SECRET: Type.Optional(
    text(
      'whsec_ followed by at least 24 bytes in base64; or two of these, separated by a comma or a space',
      'Secret that signs deliveries, as defined by Standard Webhooks. Two during a rotation. Required with SINK_URL.',
      { pattern: `^${SINK_SECRET}(${SEPARATOR}${SINK_SECRET})?$`, secret: true },
    ),
  ),
  REQUEST_TIMEOUT_MS: integer(
    30_000,
    100,
    600_000,
    'Maximum time for a client to send a whole request, in milliseconds.',
  ),
  SHUTDOWN_TIMEOUT_MS: integer(
    10_000,
    100,
    600_000,
    'Maximum time from SIGTERM (or from the end of SHUTDOWN_DELAY_MS) to exit, in milliseconds.',
  ),
  SHUTDOWN_DELAY_MS: integer(
    0,
    0,
    600_000,
    'Time after SIGTERM in which the replica is not ready but still serves, in milliseconds.',
  ),
  TRUST_PROXY: bool(
    false,
    'Whether to take the client address from X-Forwarded-For: the last one, which the proxy has added.',
  ),
  LOG_LEVEL: oneOf(
    ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    'Least severe level to log.',
    'info',
  ),
})

type Settings = Static<typeof SettingsSchema>

const validate = new Ajv({ allErrors: true, meta: false, validateSchema: false })
  .addVocabulary(['expected', 'secret'])
  .compile<Settings>(SettingsSchema)

/** The validated settings, with lists split. */
export interface Config extends Omit<Settings, 'AGENT_TOKENS' | 'ADMIN_TOKENS' | 'SINK_SECRET'> {
  AGENT_TOKENS: string[]
  ADMIN_TOKENS: string[]
  SINK_SECRET: string[]
}

/** Invalid settings; the message has one line for each: its name, its value unless secret, and the valid values. */
export class ConfigError extends StartError {
  override name = 'ConfigError'
}

/**
 * Reads the settings from the environment and from `.env` in the working directory; the environment overrides `.env`.
 * Throws ConfigError, which names every invalid setting.
 */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): Config {
  if (env === process.env && existsSync('.env')) process.loadEnvFile('.env')
  return parseConfig(env)
}

/** Validates `env`; unset and empty variables take their defaults. Throws ConfigError. */
export function parseConfig(env: NodeJS.ProcessEnv): Config {
  const values: Record<string, unknown> = {}
  for (const [name, schema] of Object.entries(SettingsSchema.properties)) {
    const raw = env[name]?.trim()
    values[name] = raw === undefined || raw === '' ? schema.default : convert(schema, raw)
    if (values[name] === undefined) delete values[name]
  }
  const invalidNames = validate(values) ? [] : namesOf(validate.errors)
  const problems = invalidNames.map((name) => invalid(name, values[name]))
  const settings = values as Settings // those that are not in invalidNames
  const config = {
    ...settings,
    AGENT_TOKENS: split(settings.AGENT_TOKENS),
    ADMIN_TOKENS: split(settings.ADMIN_TOKENS),
    SINK_SECRET: split(settings.SINK_SECRET),
  }
  for (const { of, check } of CHECKS)
    if (!of.some((name) => invalidNames.includes(name))) {
      const problem = check(config)
      if (problem !== undefined) problems.push(problem)
    }
  if (problems.length > 0) throw new ConfigError(problems.join('\n'))
  return config
}

function namesOf(errors: typeof validate.errors): string[] {
  return [...new Set(errors?.map(({ instancePath }) => instancePath.slice(1)))]
}

/** What a schema of one setting cannot express. Each check runs only if the settings that it reads are valid. */
const CHECKS: { of: (keyof Settings)[]; check: (config: Config) => string | undefined }[] = [
  { of: ['DATABASE_URL'], check: checkDatabaseUrl },
  { of: ['AGENT_JWT_KEY', 'AGENT_JWT_ALGORITHM'], check: checkJwt },
  {
    of: ['HOST', 'AGENT_TOKENS', 'ADMIN_TOKENS', 'AGENT_JWT_KEY', 'AGENT_JWT_ALGORITHM'],
    check: checkAccess,
  },
  { of: ['SINK_URL', 'SINK_SECRET'], check: checkSink },
]

function convert(schema: TSchema, raw: string): unknown {
  if (schema.type === 'integer') return /^-?\d+$/.test(raw) ? Number(raw) : raw
  if (schema.type === 'boolean') return raw === 'true' ? true : raw === 'false' ? false : raw
  return raw
}

const MAX_SHOWN = 100

function invalid(name: string, value: unknown): string {
  const schema = (SettingsSchema.properties as Record<string, TSchema>)[name]
  const text = JSON.stringify(value)
  const shown = schema?.secret ? '' : text.length > MAX_SHOWN ? ` of ${text.length} characters` : ` ${text}`
  return `${name}: invalid value${shown}: expected ${schema?.expected}`
}

function split(list: string | undefined): string[] {
  return list === undefined ? [] : list.split(new RegExp(SEPARATOR))
}

function checkDatabaseUrl({ DATABASE_URL: url }: Config): string | undefined {
  if (url === undefined) return undefined
  try {
    parseDatabaseUrl(url)
  } catch (error) {
    if (error instanceof DatabaseUrlError) return `DATABASE_URL: ${error.message}`
    throw error
  }
  return undefined
}

const PUBLIC_KEY_KINDS = new Map([
  ['RS256', ['rsa']],
  ['ES256', ['ec prime256v1']],
  ['EdDSA', ['ed25519', 'ed448']],
])

function checkJwt(config: Config): string | undefined {
  const { AGENT_JWT_KEY: key, AGENT_JWT_ALGORITHM: algorithm } = config
  if (key === undefined && algorithm === undefined) return undefined
  if (key === undefined) return 'AGENT_JWT_KEY: required with AGENT_JWT_ALGORITHM'
  if (algorithm === undefined) return 'AGENT_JWT_ALGORITHM: required with AGENT_JWT_KEY'
  if (algorithm === 'HS256') {
    if (key.length < 32 || key.includes('-----BEGIN'))
      return 'AGENT_JWT_KEY: invalid value: expected a secret of at least 32 characters for HS256'
    return undefined
  }
  // In an env file, the line breaks of a PEM key are written as \n.
  config.AGENT_JWT_KEY = key.replaceAll('\\n', '\n')
  const kinds = PUBLIC_KEY_KINDS.get(algorithm)
  const kind = kindOfKey(config.AGENT_JWT_KEY)
  if (!kinds?.includes(kind))
    return `AGENT_JWT_KEY: invalid value (${kind}): expected a PEM public key for ${algorithm}`
  return undefined
}

/** The type and curve of a PEM public key, or the reason why it is not one. */
function kindOfKey(pem: string): string {
  if (pem.includes('PRIVATE KEY-----')) return 'private key'
  try {
    const { asymmetricKeyType, asymmetricKeyDetails } = createPublicKey(pem)
    return [asymmetricKeyType, asymmetricKeyDetails?.namedCurve].filter(Boolean).join(' ')
  } catch {
    return 'not a PEM key'
  }
}

/** Without credentials, only loopback addresses are allowed; credentials are required for both roles or for neither. */
function checkAccess(config: Config): string | undefined {
  const agents = config.AGENT_TOKENS.length > 0 || config.AGENT_JWT_KEY !== undefined
  const admins = config.ADMIN_TOKENS.length > 0
  if (agents && !admins) return 'ADMIN_TOKENS: required with AGENT_TOKENS or AGENT_JWT_KEY'
  if (admins && !agents) return 'AGENT_TOKENS: required with ADMIN_TOKENS, unless AGENT_JWT_KEY is set'
  if (!agents && !isLoopback(config.HOST))
    return `HOST: invalid value ${JSON.stringify(config.HOST)}: expected a loopback address unless AGENT_TOKENS and ADMIN_TOKENS are set`
  const shared = config.AGENT_TOKENS.find((token) => config.ADMIN_TOKENS.includes(token))
  if (shared !== undefined)
    return 'ADMIN_TOKENS: invalid value: expected tokens that are not also in AGENT_TOKENS'
  return undefined
}

/** The ports that fetch() refuses (https://fetch.spec.whatwg.org/#port-blocking). */
export const BLOCKED_PORTS = new Set(
  (
    '0 1 7 9 11 13 15 17 19 20 21 22 23 25 37 42 43 53 69 77 79 87 95 101 102 103 104 109 110 111 113 115 117 119 123 ' +
    '135 137 139 143 161 179 389 427 465 512 513 514 515 526 530 531 532 540 548 554 556 563 587 601 636 989 990 993 ' +
    '995 1719 1720 1723 2049 3659 4045 4190 5060 5061 6000 6566 6665 6666 6667 6668 6669 6679 6697 10080'
  ).split(' '),
)

function checkSink({ SINK_URL: url, SINK_SECRET: secrets }: Config): string | undefined {
  if (url !== undefined && !URL.canParse(url)) return invalid('SINK_URL', url)
  if (url !== undefined && BLOCKED_PORTS.has(new URL(url).port))
    return `SINK_URL: invalid value: expected another port than ${new URL(url).port}, to which fetch does not connect`
  if (url !== undefined && secrets.length === 0) return 'SINK_SECRET: required with SINK_URL'
  if (secrets.length > 0 && url === undefined) return 'SINK_URL: required with SINK_SECRET'
  return undefined
}

/** Whether `host`, in lower case, is `localhost` or a loopback address. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))
}

/** The URL at which this machine reaches a service that listens on `host` and `port`. */
export function urlOf(host: string, port: number): string {
  const address = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  return `http://${isIP(address) === 6 ? `[${address}]` : address}:${port}`
}

/** Whether no credentials are set, so that everything is open (on loopback addresses only). */
export function isOpen(config: Config): boolean {
  return config.ADMIN_TOKENS.length === 0
}

/** Variables that other parts of the product read: the snapshot command, and the README's examples. */
const OTHER_VARIABLES = new Set(['ADMIN_TOKEN', 'AGENT_TOKEN'])

/**
 * Names in `env` that resemble a setting but are none, each with that setting: another unit or no unit
 * (FLUSH_INTERVAL), other letter case, the product's name before it, or up to two wrong letters.
 */
export function resemblingNames(env: NodeJS.ProcessEnv): { name: string; setting: string }[] {
  const settings = Object.keys(SettingsSchema.properties)
  return Object.keys(env)
    .filter((name) => !settings.includes(name) && !OTHER_VARIABLES.has(name))
    .flatMap((name) => {
      const setting = settings.find((setting) => resembles(name, setting))
      return setting === undefined ? [] : [{ name, setting }]
    })
}

function resembles(name: string, setting: string): boolean {
  const upper = name.toUpperCase()
  if (upper === setting || upper === `BOUNDARY_USAGE_${setting}`)
    return setting !== 'LOG_LEVEL' || upper === setting
  if (!setting.includes('_')) return false
  const [words, settingWords] = [upper.split('_'), setting.split('_')]
  const shared = settingWords.length > 2 ? settingWords.slice(0, -1) : settingWords
  if (shared.every((word, i) => words[i] === word) && words.length <= settingWords.length) return true
  return setting.length >= 8 && editDistance(upper, setting) <= 2
}

/** The number of letters to insert, delete or replace (Levenshtein). */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      row.push(Math.min(replaced, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1))
    }
    previous = row
  }
  return previous[b.length] ?? 0
}
