// The commands other than starting the service.

import { parseArgs } from 'node:util'
import type { TSchema } from '@sinclair/typebox'
import { loadConfig, SettingsSchema, urlOf } from './config.js'
import { connectDatabase, type Database } from './database/client.js'
import { hasEmbedded } from './database/embedded.js'
import { locateDatabase } from './database/locate.js'
import { type MigrationStatus, migrate, migrationStatus, statusOf } from './database/migrate.js'
import { version } from './version.js'

const HELP = `boundary-usage ${version}: counts what AI agents' boundaries allowed and denied.

Usage: node dist/server.js [command] [options]

Without a command it starts the service.

Commands:
  check-config          check the settings and print them, with secrets masked
  migrate               apply all pending migrations
  migrate status        list applied and pending migrations; exit with status 1 if any are pending
  snapshot [--url URL]  make a running service take a snapshot, which ends the period; print it as JSON.
                        URL defaults to the address in the settings. The token is ADMIN_TOKEN, or, without
                        --url, the first of ADMIN_TOKENS

Options:
  --help                print this help
  --version             print the version

Settings are environment variables, also read from .env in the working directory; environment variables
override .env. .env.example lists all settings. By default, the service listens on 127.0.0.1:3000 and
stores its data in an embedded PostgreSQL in .data.

Exit status: 0 success, 1 failure (reason on stderr) or pending migrations, 2 invalid command or option.
`

const MASK = '********'
/** Longer than any timeout of the service itself. */
const SNAPSHOT_TIMEOUT_MS = 60_000

/** What a command reads and writes: the process, or parts of one in tests. */
export interface Io {
  env: NodeJS.ProcessEnv
  stdout: { write(text: string): unknown }
  stderr: { write(text: string): unknown }
}

/** Runs the command named by `args` and returns its exit status; undefined if there is none: the service is to start. */
export async function runCommand(args: string[], io: Io = process): Promise<number | undefined> {
  const parsed = parse(args)
  if ('problem' in parsed) return fail(io, `${parsed.problem}; run with --help for the list of commands`, 2)
  const { command, url } = parsed
  if (command === undefined) return undefined
  try {
    return await commands[command](io, url)
  } catch (error) {
    return fail(io, error instanceof Error ? error.message : String(error), 1)
  }
}

function fail({ stderr }: Io, message: string, status: number): number {
  stderr.write(`boundary-usage: ${message}\n`)
  return status
}

const commands = {
  help: (io) => print(io, HELP),
  version: (io) => print(io, `${version}\n`),
  'check-config': (io) => print(io, describeSettings(io)),
  migrate: async (io) => print(io, describeApplied(await withDatabase(io, migrate))),
  'migrate status': async (io) => {
    const config = loadConfig(io.env)
    // Opening an embedded database that does not exist would create it.
    const exists = config.DATABASE_URL !== undefined || hasEmbedded(config.DATA_DIR)
    const status = exists ? await withDatabase(io, migrationStatus) : statusOf([])
    print(io, describeStatus(status))
    return status.pending.length > 0 ? 1 : 0
  },
  snapshot: async (io, url) => print(io, await takeSnapshot(io, url)),
} satisfies Record<string, (io: Io, url: string | undefined) => number | Promise<number>>

type Command = keyof typeof commands

function parse(args: string[]): { command?: Command; url?: string } | { problem: string } {
  const flag = { type: 'boolean' } as const
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        help: { ...flag, short: 'h' },
        version: flag,
        url: { type: 'string' },
      },
    })
    const { help, version, url } = values
    if (help) return { command: 'help' }
    if (version) return { command: 'version' }
    const command = positionals.join(' ')
    if (url !== undefined && command !== 'snapshot') return { problem: '--url is only valid with snapshot' }
    if (url !== undefined && !/^https?:\/\/[^\s@]+$/.test(url))
      return { problem: 'invalid --url: expected http(s)://host[:port]' }
    if (command === '') return {}
    if (!isCommand(command)) return { problem: `unknown command "${command}"` }
    return { command, ...(url !== undefined && { url }) }
  } catch (error) {
    // Only the first sentence of Node.js: the others describe the syntax of its own options.
    return { problem: String((error as Error).message).split(/\. |\n/)[0] ?? '' }
  }
}

function isCommand(word: string): word is Command {
  return Object.hasOwn(commands, word)
}

function print({ stdout }: Io, text: string): 0 {
  stdout.write(text)
  return 0
}

function describeSettings({ env }: Io): string {
  const config: Record<string, unknown> = { ...loadConfig(env) }
  const lines = Object.entries<TSchema>(SettingsSchema.properties).map(([name, schema]) => {
    const origin = env[name]?.trim() ? 'set' : schema.default === undefined ? 'not set' : 'default'
    const values = [config[name] ?? []].flat()
    return { text: `${name}=${values.map((value) => (schema.secret ? MASK : value)).join()}`, origin }
  })
  const width = Math.max(...lines.map(({ text }) => text.length))
  return lines.map(({ text, origin }) => `${text.padEnd(width)}  ${origin}\n`).join('')
}

/** Runs `work` on the configured database, then closes it. */
async function withDatabase<T>(io: Io, work: (database: Database) => Promise<T>): Promise<T> {
  const config = loadConfig(io.env)
  const { target, stop } = await locateDatabase(config, (message) => void io.stderr.write(`${message}\n`))
  const database = connectDatabase({ target, poolMax: 1 })
  try {
    return await work(database)
  } finally {
    await database.close()
    await stop()
  }
}

function describeApplied(names: string[]): string {
  if (names.length === 0) return 'no pending migrations\n'
  return describeStatus({ applied: names, pending: [] })
}

function describeStatus({ applied, pending }: MigrationStatus): string {
  return [
    ...applied.map((name) => `applied  ${name}\n`),
    ...pending.map((name) => `pending  ${name}\n`),
  ].join('')
}

async function takeSnapshot({ env }: Io, given: string | undefined): Promise<string> {
  const config = loadConfig(env)
  const url = given?.replace(/\/+$/, '') ?? urlOf(config.HOST, config.PORT)
  // ADMIN_TOKENS are never sent to an address given with --url: it may not be this service.
  const token = env.ADMIN_TOKEN || (given === undefined ? config.ADMIN_TOKENS[0] : undefined)
  const response = await fetch(`${url}/telemetry/snapshot`, {
    method: 'POST',
    ...(token !== undefined && { headers: { authorization: `Bearer ${token}` } }),
    // fetch() would follow a redirect with a GET, which returns a preview instead.
    redirect: 'manual',
    signal: AbortSignal.timeout(SNAPSHOT_TIMEOUT_MS),
  }).catch((error: unknown) => {
    throw new Error(
      `no response from ${url} (${reasonOf(error)}): start the service, or set its address with --url`,
    )
  })
  const text = await response.text()
  const body = parseBody(text)
  if (response.status === 200 && body !== undefined) return `${JSON.stringify(body, null, 2)}\n`
  if (response.status === 401)
    throw new Error(
      `${url} rejected ${token === undefined ? 'the request without a token' : 'this token'}: set ADMIN_TOKEN to one of the service's ADMIN_TOKENS`,
    )
  throw new Error(
    `${url} responded with ${response.status}: ${body?.message ?? 'not a boundary-usage service'}`,
  )
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { cause } = error
  return cause instanceof Error && 'code' in cause ? String(cause.code) : error.message
}

/** Undefined if the response is not JSON: something other than this service sent it. */
function parseBody(text: string): { message?: string } | undefined {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
