// DATABASE_URL by the rules of libpq: https://www.postgresql.org/docs/current/libpq-connect.html

import { readFileSync } from 'node:fs'
import type { SecureVersion, TLSSocketOptions } from 'node:tls'

/** What the driver is given. Undefined members take the driver's defaults: PGUSER, PGPASSWORD, the user's name … */
export interface ConnectionOptions {
  /** Host names and addresses, or paths of unix sockets. */
  host: string[] | undefined
  port: number[] | undefined
  user: string | undefined
  password: string | undefined
  database: string | undefined
  ssl: false | 'prefer' | 'require' | TLSSocketOptions
  sslnegotiation: 'direct' | null
  connect_timeout: number | undefined
  keep_alive: number | null | undefined
  target_session_attrs: (typeof SESSION_ATTRS)[number] | undefined
  /** Parameters that are sent to the server. */
  connection: { application_name?: string; options?: string }
}

/** The URL cannot be used; the message says why and holds no secret. */
export class DatabaseUrlError extends Error {}

const SESSION_ATTRS = ['read-write', 'read-only', 'primary', 'standby', 'prefer-standby'] as const
const SSL_MODES = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'] as const
const TLS_VERSIONS = ['TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3'] as const satisfies readonly SecureVersion[]
const DEFAULT_PORT = 5432

/** Parameters that change nothing that the service depends on. */
const OMITTED = new Set([
  ...['client_encoding', 'fallback_application_name', 'keepalives_count', 'keepalives_interval'],
  ...['tcp_user_timeout', 'load_balance_hosts', 'krbsrvname', 'gsslib', 'gssdelegation', 'sslcompression'],
])
/** Parameters of which the service can do what some of the values ask for, and no more. */
const RESTRICTED: Record<string, readonly string[]> = {
  channel_binding: ['disable', 'prefer'],
  gssencmode: ['disable', 'prefer'],
  sslcertmode: ['allow'],
  sslsni: ['1'],
}

/** Parses the URL and reads the certificates that it names. Throws DatabaseUrlError. */
export function parseDatabaseUrl(url: string): ConnectionOptions {
  const parts = /^postgres(?:ql)?:\/\/(?:([^@/?]*)@)?([^/?]*)(?:\/([^?]*))?(?:\?(.*))?$/s.exec(url)
  if (!parts) throw new DatabaseUrlError('expected postgres://user:password@host:port/database')
  const [, userinfo = '', authority = '', path = '', query = ''] = parts
  const parameters = parseQuery(query)
  const take = (name: string): string | undefined => {
    const value = parameters.get(name)
    parameters.delete(name)
    return value === '' ? undefined : value
  }

  const [user, password] = splitOnce(userinfo, ':').map(decode)
  const { hosts, ports } = parseHosts(authority, take('host'), take('port'))
  const options = take('options')
  const applicationName = take('application_name')
  const result: ConnectionOptions = {
    host: hosts,
    port: ports,
    user: take('user') ?? (user || undefined),
    password: take('password') ?? (password || undefined),
    database: take('dbname') ?? (decode(path) || undefined),
    ssl: parseSsl(take),
    sslnegotiation:
      oneOf('sslnegotiation', take('sslnegotiation'), ['postgres', 'direct']) === 'direct' ? 'direct' : null,
    connect_timeout: toSeconds('connect_timeout', take('connect_timeout')),
    keep_alive: parseKeepAlive(take),
    target_session_attrs: parseSessionAttrs(take('target_session_attrs'), hosts),
    connection: {
      ...(applicationName !== undefined && { application_name: applicationName }),
      ...(options !== undefined && { options }),
    },
  }
  for (const [name, value] of parameters) {
    if (OMITTED.has(name)) continue
    const possible = RESTRICTED[name]
    if (!possible) throw new DatabaseUrlError(`unknown or unsupported parameter ${JSON.stringify(name)}`)
    oneOf(name, value, possible)
  }
  return result
}

/** The hosts and ports of the URL, or the paths of its sockets, as people read them. */
export function hostsOf(url: string): string {
  const { host, port } = parseDatabaseUrl(url)
  const hosts = host ?? [process.env.PGHOST ?? 'localhost']
  return hosts
    .map((name, n) => {
      if (/^[/\0]/.test(name)) return name.replace('\0', '@')
      return `${name.includes(':') ? `[${name}]` : name}:${port?.[n] ?? process.env.PGPORT ?? DEFAULT_PORT}`
    })
    .join(', ')
}

function parseQuery(query: string): Map<string, string> {
  const parameters = new Map<string, string>()
  for (const pair of query === '' ? [] : query.split('&')) {
    const [name = '', value] = splitOnce(pair, '=').map(decode)
    // Not named: what follows a "?" that should have been encoded may be of a password.
    if (value === undefined) throw new DatabaseUrlError('a parameter has no value')
    parameters.set(name, value)
  }
  return parameters
}

/** The hosts of the authority, or those of the parameters in their place; each with its port. */
function parseHosts(
  authority: string,
  hostParameter: string | undefined,
  portParameter: string | undefined,
): { hosts: string[] | undefined; ports: number[] | undefined } {
  const pairs = authority.split(',').map((host) => {
    const parts = /^(?:\[([^\]]+)\]|([^:[\]]*))(?::([^:]*))?$/.exec(host)
    if (!parts) throw new DatabaseUrlError('invalid host; an IPv6 address needs brackets')
    return { host: decode(parts[1] ?? parts[2] ?? ''), port: decode(parts[3] ?? '') }
  })
  const hosts = hostParameter?.split(',') ?? pairs.map(({ host }) => host)
  const named = portParameter?.split(',') ?? pairs.map(({ port }) => port)
  if (named.length !== 1 && named.length !== hosts.length)
    throw new DatabaseUrlError(`${named.length} ports for ${hosts.length} hosts`)
  const ports = hosts.map((_, n) => toPort(named[named.length === 1 ? 0 : n] ?? ''))
  // Without host and port, the driver takes PGHOST and PGPORT, or localhost.
  if (hosts.length === 1 && hosts[0] === '') return { hosts: undefined, ports: named[0] ? ports : undefined }
  return {
    hosts: hosts.map((host, n) => {
      if (host === '') return 'localhost'
      const socket = `.s.PGSQL.${ports[n]}`
      if (host.startsWith('/')) return `${host}/${socket}`
      return host.startsWith('@') ? `\0${host.slice(1)}/${socket}` : host // @: in the abstract namespace
    }),
    ports,
  }
}

function toPort(text: string): number {
  if (text === '') return DEFAULT_PORT
  const port = /^\d+$/.test(text) ? Number(text) : 0
  if (port < 1 || port > 65_535) throw new DatabaseUrlError('invalid port')
  return port
}

type Take = (name: string) => string | undefined

function parseSsl(take: Take): ConnectionOptions['ssl'] {
  const ssl = oneOf('ssl', take('ssl'), ['true', 'false'])
  const given = oneOf('sslmode', take('sslmode'), SSL_MODES)
  const rootCert = take('sslrootcert')
  const files = {
    ...(rootCert !== undefined && rootCert !== 'system' && { ca: read('sslrootcert', rootCert) }),
    ...readInto('cert', 'sslcert', take),
    ...readInto('key', 'sslkey', take),
    ...readInto('crl', 'sslcrl', take),
  }
  const passphrase = take('sslpassword')
  const minVersion = oneOf('ssl_min_protocol_version', take('ssl_min_protocol_version'), TLS_VERSIONS)
  const maxVersion = oneOf('ssl_max_protocol_version', take('ssl_max_protocol_version'), TLS_VERSIONS)
  const fallback = rootCert === 'system' ? 'verify-full' : ssl === 'true' ? 'require' : 'prefer'
  const mode = given ?? (ssl === 'false' ? 'disable' : fallback)
  if (rootCert === 'system' && mode !== 'verify-full')
    throw new DatabaseUrlError('sslrootcert=system needs sslmode=verify-full')
  if (mode === 'disable') return false
  // The driver knows one way to take what there is: TLS if the server has it.
  if (mode === 'allow' || mode === 'prefer') return 'prefer'
  return {
    ...files,
    ...(passphrase !== undefined && { passphrase }),
    ...(minVersion && { minVersion }),
    ...(maxVersion && { maxVersion }),
    // With a root certificate, libpq verifies also where only encryption is required.
    rejectUnauthorized: mode !== 'require' || 'ca' in files,
    ...(mode !== 'verify-full' && { checkServerIdentity: () => undefined }),
  }
}

function readInto<K extends string>(key: K, name: string, take: Take): { [key in K]?: Buffer } {
  const path = take(name)
  return (path === undefined ? {} : { [key]: read(name, path) }) as { [key in K]?: Buffer }
}

function read(name: string, path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    const reason = error instanceof Error && 'code' in error ? ` (${error.code})` : ''
    throw new DatabaseUrlError(`${name}: cannot read ${path}${reason}`)
  }
}

function parseKeepAlive(take: Take): number | null | undefined {
  const idle = toSeconds('keepalives_idle', take('keepalives_idle'))
  return oneOf('keepalives', take('keepalives'), ['0', '1']) === '0' ? null : idle
}

/** Replicas write, so of several hosts the primary is meant. */
function parseSessionAttrs(
  value: string | undefined,
  hosts: string[] | undefined,
): ConnectionOptions['target_session_attrs'] {
  const attrs = oneOf('target_session_attrs', value, ['any', ...SESSION_ATTRS])
  if (attrs === undefined) return hosts && hosts.length > 1 ? 'primary' : undefined
  return attrs === 'any' ? undefined : attrs
}

/** As for libpq, 0 is no value of its own. */
function toSeconds(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (!/^-?\d{1,9}$/.test(text)) throw new DatabaseUrlError(`${name}: expected a number of seconds`)
  return Number(text) > 0 ? Number(text) : undefined
}

function oneOf<const T extends string>(
  name: string,
  value: string | undefined,
  values: readonly T[],
): T | undefined {
  if (value === undefined) return undefined
  const found = values.find((known) => known === value)
  if (found === undefined) throw new DatabaseUrlError(`${name}: expected one of ${values.join(', ')}`)
  return found
}

/** The text before and after the first separator, or the whole. */
function splitOnce(text: string, separator: string): string[] {
  const at = text.indexOf(separator)
  return at === -1 ? [text] : [text.slice(0, at), text.slice(at + 1)]
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new DatabaseUrlError('invalid percent-encoding')
  }
}
