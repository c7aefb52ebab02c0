// The settings: one schema, read from the environment and validated before the service starts.

import { createPublicKey } from 'node:crypto'
import { existsSync } from 'node:fs'
import { isIP } from 'node:net'
import { hostname } from 'node:os'
import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { Ajv } from 'ajv'
import postgres from 'postgres'

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
  options: { default?: string; pattern?: string; secret?: boolean } = {},
) => Type.String({ minLength: 1, expected, description, ...options })

const tokens = (description: string) =>
  text('comma-separated tokens of at least 24 characters each', description, {
    pattern: '^[^\\s,]{24,}(\\s*,\\s*[^\\s,]{24,})*$',
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
  DATABASE_POOL_MAX: integer(4, 1, 100, 'Maximum number of connections to PostgreSQL.'),
  DATABASE_TRANSACTION_POOLING: bool(false, 'Whether DATABASE_URL is a PgBouncer in transaction mode.'),
  MIGRATE_ON_START: bool(true, 'Whether to apply pending migrations at startup, under a lock.'),
  REPLICA_NAME: text(
    'a name of at most 255 characters',
    'Human-readable label of this replica. Defaults to the host name.',
    { default: hostname() },
  ),
  FLUSH_INTERVAL_MS: integer(60_000, 10, 3_600_000, 'Time between two flushes, in milliseconds.'),
  SNAPSHOT_INTERVAL_MS: Type.Integer({
    default: 1_800_000,
    minimum: 0,
    maximum: 86_400_000,
    expected: '0 or an integer from 1000 to 86400000',
    description: 'Time between two scheduled snapshots, in milliseconds; 0 disables them.',
  }),
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
    text('a token of at least 24 characters', 'Bearer token for /metrics; without it, /metrics is open.', {
      pattern: '^\\S{24,}$',
      secret: true,
    }),
  ),
  BODY_LIMIT_BYTES: integer(
    4_194_304,
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
  SNAPSHOT_RETENTION_DAYS: integer(400, 1, 36_500, 'Number of days for which snapshots are kept.'),
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
  SHUTDOWN_TIMEOUT_MS: integer(10_000, 100, 600_000, 'Maximum time from SIGTERM to exit, in milliseconds.'),
  TRUST_PROXY: bool(false, 'Whether to take the client address from X-Forwarded-For.'),
  LOG_LEVEL: oneOf(
    ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    'Least severe level to log.',
    'info',
  ),
})

type Settings = Static<typeof SettingsSchema>

const validate = new Ajv().addVocabulary(['expected', 'secret']).compile<Settings>(SettingsSchema)

/** The validated settings, with lists split. */
export interface Config extends Omit<Settings, 'AGENT_TOKENS' | 'ADMIN_TOKENS' | 'SINK_SECRET'> {
  AGENT_TOKENS: string[]
  ADMIN_TOKENS: string[]
  SINK_SECRET: string[]
}

/** An invalid setting; the message names it, its value unless secret, and the valid values. */
export class ConfigError extends Error {}

/**
 * Reads the settings from the environment and from `.env` in the working directory; the environment overrides `.env`.
 * Throws ConfigError with one line for the first invalid setting.
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
  if (!validate(values)) {
    const name = validate.errors?.[0]?.instancePath.slice(1) ?? ''
    throw invalid(name, values[name])
  }
  const settings = values

  if (settings.SNAPSHOT_INTERVAL_MS > 0 && settings.SNAPSHOT_INTERVAL_MS < 1000)
    throw invalid('SNAPSHOT_INTERVAL_MS', settings.SNAPSHOT_INTERVAL_MS)
  if (settings.REPLICA_NAME.length > 255) throw invalid('REPLICA_NAME', settings.REPLICA_NAME)

  const config = {
    ...settings,
    AGENT_TOKENS: split(settings.AGENT_TOKENS),
    ADMIN_TOKENS: split(settings.ADMIN_TOKENS),
    SINK_SECRET: split(settings.SINK_SECRET),
  }
  checkDatabaseUrl(config)
  checkJwt(config)
  checkAccess(config)
  checkSink(config)
  return config
}

function convert(schema: TSchema, raw: string): unknown {
  if (schema.type === 'integer') return /^-?\d+$/.test(raw) ? Number(raw) : raw
  if (schema.type === 'boolean') return raw === 'true' ? true : raw === 'false' ? false : raw
  return raw
}

function invalid(name: string, value: unknown): ConfigError {
  const schema = (SettingsSchema.properties as Record<string, TSchema>)[name]
  const shown = schema?.secret ? '' : ` ${JSON.stringify(value)}`
  return new ConfigError(`${name}: invalid value${shown}: expected ${schema?.expected}`)
}

function split(list: string | undefined): string[] {
  return list === undefined ? [] : list.split(new RegExp(SEPARATOR))
}

/** The driver's own error for an invalid URL would show the whole URL, with its password, in the log. */
function checkDatabaseUrl({ DATABASE_URL: url }: Config): void {
  if (url === undefined) return
  try {
    postgres(url) // does not connect
  } catch {
    throw invalid('DATABASE_URL', url)
  }
}

function checkJwt(config: Config): void {
  const { AGENT_JWT_KEY: key, AGENT_JWT_ALGORITHM: algorithm } = config
  if (key === undefined && algorithm === undefined) return
  if (key === undefined) throw new ConfigError('AGENT_JWT_KEY: required with AGENT_JWT_ALGORITHM')
  if (algorithm === undefined) throw new ConfigError('AGENT_JWT_ALGORITHM: required with AGENT_JWT_KEY')
  if (algorithm === 'HS256') {
    if (key.length < 32 || key.includes('-----BEGIN'))
      throw new ConfigError(
        'AGENT_JWT_KEY: invalid value: expected a secret of at least 32 characters for HS256',
      )
    return
  }
  // In an env file, the line breaks of a PEM key are written as \n.
  config.AGENT_JWT_KEY = key.replaceAll('\\n', '\n')
  const kinds = { RS256: ['rsa'], ES256: ['ec prime256v1'], EdDSA: ['ed25519', 'ed448'] }[algorithm]
  const kind = kindOfKey(config.AGENT_JWT_KEY)
  if (!kinds.includes(kind))
    throw new ConfigError(
      `AGENT_JWT_KEY: invalid value (${kind}): expected a PEM public key for ${algorithm}`,
    )
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
function checkAccess(config: Config): void {
  const agents = config.AGENT_TOKENS.length > 0 || config.AGENT_JWT_KEY !== undefined
  const admins = config.ADMIN_TOKENS.length > 0
  if (agents && !admins) throw new ConfigError('ADMIN_TOKENS: required with AGENT_TOKENS or AGENT_JWT_KEY')
  if (admins && !agents)
    throw new ConfigError('AGENT_TOKENS: required with ADMIN_TOKENS, unless AGENT_JWT_KEY is set')
  if (!agents && !isLoopback(config.HOST))
    throw new ConfigError(
      `HOST: invalid value ${JSON.stringify(config.HOST)}: expected a loopback address unless AGENT_TOKENS and ADMIN_TOKENS are set`,
    )
  const shared = config.AGENT_TOKENS.find((token) => config.ADMIN_TOKENS.includes(token))
  if (shared !== undefined)
    throw new ConfigError('ADMIN_TOKENS: invalid value: expected tokens that are not also in AGENT_TOKENS')
}

function checkSink({ SINK_URL: url, SINK_SECRET: secrets }: Config): void {
  if (url !== undefined && !URL.canParse(url)) throw invalid('SINK_URL', url)
  if (url !== undefined && secrets.length === 0) throw new ConfigError('SINK_SECRET: required with SINK_URL')
  if (secrets.length > 0 && url === undefined) throw new ConfigError('SINK_URL: required with SINK_SECRET')
}

function isLoopback(host: string): boolean {
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
