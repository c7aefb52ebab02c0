// The settings of the forwarder: flags, and environment variables of the same names.

import { statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { claimsOf, type Ids, readToken, TOKEN, UUID } from './credentials.js'
import { LEVELS, type Level } from './log.js'

/** The address of a unix socket has room for so many bytes. */
const MAX_SOCKET_PATH_BYTES = 107
/** A frame can hold so much, with what is kept about its logs. */
const MIN_SPOOL_LIMIT = 65_536

export interface Settings {
  urls: URL[]
  socket: string
  socketMode: number
  token: string | undefined
  tokenFile: string | undefined
  /** As the settings state them; undefined if a JWT does. */
  ids: Ids | undefined
  spool: string | undefined
  spoolLimit: number
  tee: string | undefined
  logLevel: Level
}

export type Invocation =
  | { command: 'help' | 'version' }
  | { command: 'wait'; socket: string }
  | { command: 'check' | 'run'; settings: Settings }

/** Settings that cannot be; each line of the message names one. */
export class SettingsError extends Error {
  override name = 'SettingsError'
}

const OPTIONS = {
  url: { type: 'string', multiple: true },
  socket: { type: 'string' },
  'socket-mode': { type: 'string' },
  'token-file': { type: 'string' },
  'workspace-id': { type: 'string' },
  'owner-id': { type: 'string' },
  spool: { type: 'string' },
  'spool-limit': { type: 'string' },
  tee: { type: 'string' },
  'log-level': { type: 'string' },
  check: { type: 'boolean' },
  wait: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean' },
} as const

type Name = keyof typeof OPTIONS

export const HELP = `Usage: boundary-usage forward --url URL --socket PATH [options]

Listens on a unix socket for the logs of boundaries and sends them to boundary-usage.

  --url URL             the service; repeat it for several replicas of one deployment
  --socket PATH         the unix socket on which to listen
  --socket-mode MODE    the socket's permissions, octal (default 0666)
  --token-file PATH     a file with the agent's token or JWT, read again when the service refuses it;
                        or the token itself in BOUNDARY_USAGE_TOKEN
  --workspace-id UUID   whose logs they are; needed unless the token is a JWT that contains both
  --owner-id UUID
  --spool DIR           keeps unacknowledged logs in files in DIR (default: in memory only)
  --spool-limit BYTES   how much to keep (default 67108864)
  --tee PATH            passes every frame on to another unix socket
  --log-level LEVEL     debug, info, warn, error or silent (default info)

  --check               tests token, service, spool and tee, and exits
  --wait                exits as soon as a forwarder accepts connections on --socket
  --help, --version

Each option has an environment variable: BOUNDARY_USAGE_URL (several URLs separated by commas),
BOUNDARY_USAGE_SOCKET, BOUNDARY_USAGE_SOCKET_MODE and so on. An option takes precedence. No .env is read.
SIGUSR2 logs totals.

Exit codes: 0 after SIGTERM and after a successful --check, --wait, --help or --version; 2 for invalid
settings; 1 otherwise.
`

/** What the arguments and the environment ask for; throws SettingsError. */
export function readInvocation(args: string[], env: NodeJS.ProcessEnv): Invocation {
  const values = readValues(args, env)
  if (values.help) return { command: 'help' }
  if (values.version) return { command: 'version' }

  const problems: string[] = []
  for (const [name, value] of Object.entries(values))
    if (value === '') problems.push(`--${name}: invalid value ""`)
  const reader = settingsReader(values, problems)
  const socket = reader.socketPath('socket')
  if (values.socket === undefined) problems.push('--socket: not set, takes a path')
  if (values.wait) {
    if (problems.length > 0) throw new SettingsError(problems.join('\n'))
    return { command: 'wait', socket: socket ?? '' }
  }

  const { token, tokenFile } = reader.token(env)
  const settings: Settings = {
    urls: reader.urls(),
    socket: socket ?? '',
    socketMode:
      reader.matching('socket-mode', /^0?[0-7]{3}$/, 'three octal digits', (text) =>
        Number.parseInt(text, 8),
      ) ?? 0o666,
    token,
    tokenFile,
    ids: reader.ids(token),
    spool: values.spool === undefined ? undefined : resolve(values.spool),
    spoolLimit:
      reader.matching(
        'spool-limit',
        /^[1-9]\d{3,14}$/,
        `a number of bytes, at least ${MIN_SPOOL_LIMIT}`,
        Number,
      ) ?? 64 * 2 ** 20,
    tee: reader.socketPath('tee'),
    logLevel: reader.level(),
  }
  if (settings.spoolLimit < MIN_SPOOL_LIMIT)
    problems.push(invalid('spool-limit', values['spool-limit'], `at least ${MIN_SPOOL_LIMIT}`))
  if (settings.tee !== undefined && socket !== undefined && isSamePath(settings.tee, socket))
    problems.push(invalid('tee', values.tee, 'a socket other than --socket'))
  if (problems.length > 0) throw new SettingsError(problems.join('\n'))
  return { command: values.check ? 'check' : 'run', settings }
}

type Values = ReturnType<typeof parseArgs<{ options: typeof OPTIONS; args: string[] }>>['values']

function readValues(args: string[], env: NodeJS.ProcessEnv): Values {
  try {
    // What the environment sets goes before what the arguments set: the last value of an option applies.
    const { values } = parseArgs({ args, options: OPTIONS })
    const fromEnvironment = parseArgs({ args: toArguments(env), options: OPTIONS }).values
    return { ...fromEnvironment, ...values }
  } catch (error) {
    // Further sentences of Node's are about its own syntax.
    const [problem = ''] = String(error instanceof Error ? error.message : error).split(/\. |\n/)
    throw new SettingsError(`${problem}; --help lists the options`)
  }
}

/** The environment's settings, as arguments. */
function toArguments(env: NodeJS.ProcessEnv): string[] {
  return Object.entries(OPTIONS).flatMap(([name, { type }]) => {
    const value = env[variableOf(name)]?.trim()
    if (!value) return []
    if (type === 'boolean') return value === 'true' || value === '1' ? [`--${name}`] : []
    const values = name === 'url' ? value.split(',').map((url) => url.trim()) : [value]
    return values.map((one) => `--${name}=${one}`)
  })
}

function variableOf(name: string): string {
  return `BOUNDARY_USAGE_${name.replaceAll('-', '_').toUpperCase()}`
}

function invalid(name: Name, value: unknown, takes: string): string {
  return `--${name}: invalid value ${JSON.stringify(value)}, takes ${takes}`
}

/** Reads single settings; each problem is added to `problems`. */
function settingsReader(values: Values, problems: string[]) {
  function matching<T>(
    name: Exclude<Name, 'url' | 'check' | 'wait' | 'help' | 'version'>,
    pattern: RegExp,
    takes: string,
    convert: (text: string) => T,
  ): T | undefined {
    const value = values[name]
    if (value === undefined) return undefined
    if (pattern.test(value)) return convert(value)
    problems.push(invalid(name, value, takes))
    return undefined
  }

  return {
    matching,

    socketPath(name: 'socket' | 'tee'): string | undefined {
      const value = values[name]
      if (value === undefined) return undefined
      const path = resolve(value)
      if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
        problems.push(invalid(name, value, `a path of at most ${MAX_SOCKET_PATH_BYTES} bytes`))
        return undefined
      }
      return path
    },

    urls(): URL[] {
      const urls = (values.url ?? []).flatMap((text) => {
        const url = URL.canParse(text) ? new URL(text) : undefined
        const isUsable =
          url !== undefined &&
          /^https?:$/.test(url.protocol) &&
          url.username + url.password + url.search + url.hash === ''
        if (!isUsable)
          problems.push(
            invalid(
              'url',
              text.replace(/\/\/.*@/, '//***@'),
              'http:// or https://, a host, and maybe a port and a path',
            ),
          )
        return isUsable ? [url] : []
      })
      if (values.url === undefined) problems.push('--url: not set, takes http:// or https:// and a host')
      return urls
    },

    token(env: NodeJS.ProcessEnv): { token: string | undefined; tokenFile: string | undefined } {
      const file = values['token-file']
      if (file !== undefined) {
        const tokenFile = resolve(file)
        const token = readToken(tokenFile)
        if (token === undefined)
          problems.push(invalid('token-file', file, 'a readable file that contains one token'))
        return { token, tokenFile }
      }
      const token = env[variableOf('token')]?.trim() || undefined
      if (token !== undefined && !TOKEN.test(token))
        problems.push(`${variableOf('token')}: invalid value, takes a token without spaces`)
      return { token, tokenFile: undefined }
    },

    /** Undefined if they are the token's. */
    ids(token: string | undefined): Ids | undefined {
      const workspaceId = matching('workspace-id', UUID, 'a UUID', (text) => text.toLowerCase())
      const ownerId = matching('owner-id', UUID, 'a UUID', (text) => text.toLowerCase())
      const claims = token === undefined ? undefined : claimsOf(token)
      for (const [name, value, claim] of [
        ['workspace-id', workspaceId, claims?.workspaceId],
        ['owner-id', ownerId, claims?.ownerId],
      ] as const) {
        if (claim === undefined && values[name] === undefined)
          problems.push(`--${name}: not set, needed unless the token is a JWT that contains it`)
        if (claim !== undefined && value !== undefined && claim !== value)
          problems.push(invalid(name, value, `${claim}, as the JWT says, or leave it out`))
      }
      return claims === undefined && workspaceId !== undefined && ownerId !== undefined
        ? { workspaceId, ownerId }
        : undefined
    },

    level(): Level {
      const names = Object.keys(LEVELS).join('|')
      return (
        matching(
          'log-level',
          new RegExp(`^(${names})$`),
          names.replaceAll('|', ', '),
          (text) => text as Level,
        ) ?? 'info'
      )
    },
  }
}

/** Whether two paths lead to the same socket, through links, too. */
function isSamePath(a: string, b: string): boolean {
  return a === b || identity(a) === identity(b)
}

function identity(path: string): string {
  try {
    const { dev, ino } = statSync(path)
    return `${dev}:${ino}`
  } catch {
    // It does not exist yet: its directory and its name stand for it.
  }
  try {
    const { dev, ino } = statSync(dirname(path))
    return join(`${dev}:${ino}`, basename(path))
  } catch {
    return path
  }
}
