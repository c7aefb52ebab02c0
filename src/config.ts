// The settings: one schema, read from the environment, checked before anything starts.

import { createPublicKey } from 'node:crypto'
import { existsSync } from 'node:fs'
import { isIP } from 'node:net'
import { hostname } from 'node:os'
import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { Ajv } from 'ajv'
import postgres from 'postgres'

const integer = (fallback: number, minimum: number, maximum: number, meaning: string) =>
  Type.Integer({
    default: fallback,
    minimum,
    maximum,
    takes: `a whole number from ${minimum} to ${maximum}`,
    meaning,
  })

const oneOf = <const T extends string[]>(values: T, meaning: string) =>
  Type.Unsafe<T[number]>({ type: 'string', enum: values, takes: `one of ${values.join(', ')}`, meaning })

const bool = (fallback: boolean, meaning: string) =>
  Type.Boolean({ default: fallback, takes: 'true or false', meaning })

const text = (takes: string, meaning: string, options: { default?: string; secret?: boolean } = {}) =>
  Type.String({ minLength: 1, takes, meaning, ...options })

const tokens = (meaning: string) =>
  Type.String({
    pattern: '^[^\\s,]{24,}(\\s*,\\s*[^\\s,]{24,})*$',
    takes: 'tokens of 24 characters or more each, separated by commas',
    secret: true,
    meaning,
  })

/** Every setting: its type, default, what it takes and what it means. `.env.example` and docs/operating.md follow it. */
export const SettingsSchema = Type.Object({
  HOST: text('an address or host name to listen on', 'Address to listen on.', { default: '127.0.0.1' }),
  PORT: integer(3000, 0, 65535, 'Port to listen on; 0 takes a free one.'),
  DATABASE_URL: Type.Optional(
    Type.String({
      pattern: '^postgres(ql)?://.+',
      takes: 'postgres://user:password@host:port/database, several hosts separated by commas',
      secret: true,
      meaning: 'PostgreSQL to use. Without it an embedded one runs in DATA_DIR.',
    }),
  ),
  DATA_DIR: text('a directory', "The embedded PostgreSQL's data; one replica at a time.", {
    default: '.data',
  }),
  DATABASE_POOL_MAX: integer(4, 1, 100, 'Connections to PostgreSQL at the most.'),
  DATABASE_TRANSACTION_POOLING: bool(
    false,
    'DATABASE_URL is a PgBouncer in transaction mode: keep no state in a session.',
  ),
  MIGRATE_ON_START: bool(true, 'Apply the migrations at start, under a lock.'),
  REPLICA_NAME: text('a name of up to 255 characters', 'The label that people read; default: host name.', {
    default: hostname(),
  }),
  FLUSH_INTERVAL_MS: integer(60_000, 10, 3_600_000, 'Time between two flushes.'),
  SNAPSHOT_INTERVAL_MS: Type.Integer({
    default: 1_800_000,
    minimum: 0,
    maximum: 86_400_000,
    takes: '0 or a whole number from 1000 to 86400000',
    meaning: 'Time between two scheduled snapshots; 0: none are scheduled.',
  }),
  ACK: Type.Unsafe<'memory' | 'durable'>({
    ...oneOf(['memory', 'durable'], 'When a batch is acknowledged: once counted, or once committed.'),
    default: 'memory',
  }),
  AGENT_TOKENS: Type.Optional(tokens("Agents' bearer tokens.")),
  ADMIN_TOKENS: Type.Optional(tokens("Admins' bearer tokens.")),
  AGENT_JWT_KEY: Type.Optional(
    text('a PEM public key, or a secret of 32 characters or more for HS256', "Verifies agents' JWTs.", {
      secret: true,
    }),
  ),
  AGENT_JWT_ALGORITHM: Type.Optional(
    oneOf(['HS256', 'RS256', 'ES256', 'EdDSA'], 'The one algorithm accepted; needed with AGENT_JWT_KEY.'),
  ),
  METRICS_TOKEN: Type.Optional(
    Type.String({
      pattern: '^\\S{24,}$',
      takes: 'a token of 24 characters or more',
      secret: true,
      meaning: 'Bearer token for /metrics; without it /metrics is open.',
    }),
  ),
  BODY_LIMIT_BYTES: integer(4_194_304, 1024, 67_108_864, 'Largest body, after decompression too.'),
  RATE_LIMIT_PER_MINUTE: integer(0, 0, 1_000_000, 'Batches a minute for each credential; 0: no limit.'),
  EXACT_LIMIT: integer(
    100_000,
    1,
    10_000_000,
    'Ids of a kind counted exactly; beyond them a sketch estimates.',
  ),
  SNAPSHOT_RETENTION_DAYS: integer(400, 1, 36_500, 'Days for which snapshots are kept.'),
  SINK_URL: Type.Optional(
    Type.String({
      pattern: '^https?://[^\\s@]+$',
      takes: 'https://host/path, or http, without a user name',
      secret: true,
      meaning: 'Where every snapshot is delivered to; without it nothing leaves.',
    }),
  ),
  SINK_SECRET: Type.Optional(
    Type.String({
      pattern: '^whsec_[A-Za-z0-9+/]{32,}={0,2}$',
      takes: 'whsec_ and 24 bytes or more in base64',
      secret: true,
      meaning: 'Signs deliveries, as the Standard Webhooks specification says; needed with SINK_URL.',
    }),
  ),
  REQUEST_TIMEOUT_MS: integer(30_000, 100, 600_000, 'Time a client may take to send a whole request.'),
  SHUTDOWN_TIMEOUT_MS: integer(10_000, 100, 600_000, 'Time from SIGTERM to exit at the most.'),
  TRUST_PROXY: bool(false, 'Take the client address from X-Forwarded-For.'),
  LOG_LEVEL: Type.Unsafe<'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent'>({
    ...oneOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'], 'Least severe level to log.'),
    default: 'info',
  }),
})

type Settings = Static<typeof SettingsSchema>

const validate = new Ajv().addVocabulary(['takes', 'meaning', 'secret']).compile<Settings>(SettingsSchema)

/** The checked settings, lists split. */
export interface Config extends Omit<Settings, 'AGENT_TOKENS' | 'ADMIN_TOKENS'> {
  AGENT_TOKENS: string[]
  ADMIN_TOKENS: string[]
}

/** A setting that cannot be used; the message names it, what it got and what it takes. */
export class ConfigError extends Error {}

/**
 * Reads the settings from `env`, and from `.env` in the working directory for those that `env` lacks.
 * Throws ConfigError with one line for the first setting that cannot be used.
 */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): Config {
  if (env === process.env && existsSync('.env')) process.loadEnvFile('.env')
  return parseConfig(env)
}

/** Checks `env` against the schema; unset and empty variables take their defaults. Throws ConfigError. */
export function parseConfig(env: NodeJS.ProcessEnv): Config {
  const given: Record<string, unknown> = {}
  for (const [name, schema] of Object.entries(SettingsSchema.properties)) {
    const raw = env[name]?.trim()
    given[name] = raw === undefined || raw === '' ? schema.default : convert(schema, raw)
    if (given[name] === undefined) delete given[name]
  }
  if (!validate(given)) {
    const name = validate.errors?.[0]?.instancePath.slice(1) ?? ''
    throw refusal(name, given[name])
  }
  const settings = given

  if (settings.SNAPSHOT_INTERVAL_MS > 0 && settings.SNAPSHOT_INTERVAL_MS < 1000)
    throw refusal('SNAPSHOT_INTERVAL_MS', settings.SNAPSHOT_INTERVAL_MS)
  if (settings.REPLICA_NAME.length > 255) throw refusal('REPLICA_NAME', settings.REPLICA_NAME)

  const config = {
    ...settings,
    AGENT_TOKENS: split(settings.AGENT_TOKENS),
    ADMIN_TOKENS: split(settings.ADMIN_TOKENS),
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

function refusal(name: string, value: unknown): ConfigError {
  const schema = (SettingsSchema.properties as Record<string, TSchema>)[name]
  const got = schema?.secret ? 'a value that does not fit' : JSON.stringify(value)
  return new ConfigError(`${name}: got ${got}, takes ${schema?.takes}`)
}

function split(list: string | undefined): string[] {
  return list === undefined ? [] : list.split(',').map((token) => token.trim())
}

/** A URL that the driver cannot read would end the start with all of it, the password too, in the message. */
function checkDatabaseUrl({ DATABASE_URL: url }: Config): void {
  if (url === undefined) return
  try {
    postgres(url) // connects to nothing yet
  } catch {
    throw refusal('DATABASE_URL', url)
  }
}

function checkJwt(config: Config): void {
  const { AGENT_JWT_KEY: key, AGENT_JWT_ALGORITHM: algorithm } = config
  if (key === undefined && algorithm === undefined) return
  if (key === undefined) throw new ConfigError('AGENT_JWT_KEY: got nothing, needed with AGENT_JWT_ALGORITHM')
  if (algorithm === undefined)
    throw new ConfigError('AGENT_JWT_ALGORITHM: got nothing, needed with AGENT_JWT_KEY')
  if (algorithm === 'HS256') {
    if (key.length < 32 || key.includes('-----BEGIN'))
      throw new ConfigError(
        'AGENT_JWT_KEY: got a PEM key or too short a secret, takes a secret of 32 characters or more for HS256',
      )
    return
  }
  // A PEM key in one line of an env file has its line breaks written as \n.
  config.AGENT_JWT_KEY = key.replaceAll('\\n', '\n')
  const kinds = { RS256: ['rsa'], ES256: ['ec prime256v1'], EdDSA: ['ed25519', 'ed448'] }[algorithm]
  const kind = kindOfKey(config.AGENT_JWT_KEY)
  if (!kinds.includes(kind))
    throw new ConfigError(`AGENT_JWT_KEY: got ${kind}, takes a PEM public key for ${algorithm}`)
}

/** The type of a PEM public key, with its curve if it has one; or why it is none. */
function kindOfKey(pem: string): string {
  if (pem.includes('PRIVATE KEY-----')) return 'a private key'
  try {
    const { asymmetricKeyType, asymmetricKeyDetails } = createPublicKey(pem)
    return [asymmetricKeyType, asymmetricKeyDetails?.namedCurve].filter(Boolean).join(' ')
  } catch {
    return 'a value that is no PEM key'
  }
}

/** Open access is for loopback alone, and a service that knows one role's credentials must know both. */
function checkAccess(config: Config): void {
  const agents = config.AGENT_TOKENS.length > 0 || config.AGENT_JWT_KEY !== undefined
  const admins = config.ADMIN_TOKENS.length > 0
  if (agents && !admins)
    throw new ConfigError('ADMIN_TOKENS: got nothing, needed when agents have credentials')
  if (admins && !agents)
    throw new ConfigError('AGENT_TOKENS: got nothing, needed (or AGENT_JWT_KEY) with ADMIN_TOKENS')
  if (!agents && !isLoopback(config.HOST))
    throw new ConfigError(
      `HOST: got ${JSON.stringify(config.HOST)}, takes a loopback address as long as AGENT_TOKENS and ADMIN_TOKENS are not set`,
    )
  const shared = config.AGENT_TOKENS.find((token) => config.ADMIN_TOKENS.includes(token))
  if (shared !== undefined)
    throw new ConfigError('ADMIN_TOKENS: got a token that is also in AGENT_TOKENS, takes tokens of its own')
}

function checkSink({ SINK_URL: url, SINK_SECRET: secret }: Config): void {
  if (url !== undefined && !URL.canParse(url)) throw refusal('SINK_URL', url)
  if (url !== undefined && secret === undefined)
    throw new ConfigError('SINK_SECRET: got nothing, needed with SINK_URL')
  if (secret !== undefined && url === undefined)
    throw new ConfigError('SINK_URL: got nothing, needed with SINK_SECRET')
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))
}

/** Where this machine reaches a service that listens there. */
export function urlOf(host: string, port: number): string {
  const reached = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  return `http://${isIP(reached) === 6 ? `[${reached}]` : reached}:${port}`
}

/** True when no role has credentials, so that everything is open (on loopback only). */
export function isOpen(config: Config): boolean {
  return config.ADMIN_TOKENS.length === 0
}
