// The command line: what an operator does without, or beside, a running service.

import { parseArgs } from 'node:util'
import type { TSchema } from '@sinclair/typebox'
import { loadConfig, SettingsSchema, urlOf } from './config.js'
import { connectDatabase, type Database } from './database/client.js'
import { hasEmbedded } from './database/embedded.js'
import { locateDatabase } from './database/locate.js'
import { type MigrationStatus, migrate, migrationStatus, statusAt } from './database/migrate.js'
import { version } from './version.js'

const HELP = `boundary-usage ${version}: counts what AI agents' boundaries allowed and denied.

Usage: node dist/server.js [command] [options]

Without a command it starts the service.

Commands:
  migrate               apply the migrations that the database lacks
  migrate status        list those applied and pending, change nothing; exit with 1 if any is pending
  snapshot [--url URL]  have a running service take a snapshot, which ends the period; print it as JSON.
                        URL is by default where the settings let the service listen. The token is
                        ADMIN_TOKEN, or without --url the first of ADMIN_TOKENS

Options:
  --check-config        check the settings and list them, secrets masked
  --help                print this
  --version             print the version

Settings are environment variables, read also from .env in the working directory; the environment goes
before it. .env.example lists them all: with defaults alone, the service listens on 127.0.0.1:3000 and
keeps an embedded PostgreSQL in .data.

Exit codes: 0 done, 1 failed (stderr says why) or migrations pending, 2 no such command or option.
`

const AVAILABLE =
  'there are migrate, migrate status, snapshot [--url URL], --check-config, --help and --version'
const MASK = '********'
/** A service gives up sooner. */
const SNAPSHOT_TIMEOUT_MS = 60_000

/** Runs the command that `args` name and returns its exit code; undefined if they name none, so that the service starts. */
export async function runCommand(args: string[]): Promise<number | undefined> {
  const parsed = parse(args)
  if ('refusal' in parsed) return complain(`${parsed.refusal}; ${AVAILABLE}`, 2)
  const { command, url } = parsed
  if (command === undefined) return undefined
  try {
    return await commands[command](url)
  } catch (error) {
    return complain(error instanceof Error ? error.message : String(error), 1)
  }
}

function complain(message: string, exitCode: number): number {
  process.stderr.write(`boundary-usage: ${message}\n`)
  return exitCode
}

const commands = {
  help: () => print(HELP),
  version: () => print(`${version}\n`),
  'check-config': () => print(describeSettings()),
  migrate: async () => print(describeApplied(await withDatabase(migrate))),
  'migrate status': async () => {
    const config = loadConfig()
    // To look is not to create.
    const isThere = config.DATABASE_URL !== undefined || hasEmbedded(config.DATA_DIR)
    const status = isThere ? await withDatabase(migrationStatus) : statusAt(0)
    print(describeStatus(status))
    return status.pending.length > 0 ? 1 : 0
  },
  snapshot: async (url) => print(await takeSnapshot(url)),
} satisfies Record<string, (url: string | undefined) => number | Promise<number>>

type Command = keyof typeof commands

function parse(args: string[]): { command?: Command; url?: string } | { refusal: string } {
  const flag = { type: 'boolean' } as const
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        help: { ...flag, short: 'h' },
        version: flag,
        'check-config': flag,
        url: { type: 'string' },
      },
    })
    const { url, ...flags } = values
    const words = positionals.join(' ')
    const [command, ...rest] = [...Object.keys(flags), ...(words ? [words] : [])]
    if (flags.help) return { command: 'help' }
    if (rest.length > 0) return { refusal: `"${command}" and "${rest.join('", "')}" do not go together` }
    if (url !== undefined && command !== 'snapshot') return { refusal: '--url is for snapshot alone' }
    if (url !== undefined && !/^https?:\/\/[^\s@]+$/.test(url))
      return { refusal: '--url takes http:// or https:// and a host' }
    if (command === undefined) return {}
    if (!isCommand(command)) return { refusal: `unknown command "${command}"` }
    return { command, ...(url !== undefined && { url }) }
  } catch (error) {
    // What Node.js adds in further sentences is about its own syntax.
    return { refusal: String((error as Error).message).split(/\. |\n/)[0] ?? '' }
  }
}

function isCommand(word: string): word is Command {
  return Object.hasOwn(commands, word)
}

function print(text: string): 0 {
  process.stdout.write(text)
  return 0
}

function describeSettings(): string {
  const config: Record<string, unknown> = { ...loadConfig() }
  const lines = Object.entries<TSchema>(SettingsSchema.properties).map(([name, schema]) => {
    const origin = process.env[name]?.trim() ? 'set' : schema.default === undefined ? 'not set' : 'default'
    const values = [config[name] ?? []].flat()
    return { text: `${name}=${values.map((value) => (schema.secret ? MASK : value)).join()}`, origin }
  })
  const width = Math.max(...lines.map(({ text }) => text.length))
  return lines.map(({ text, origin }) => `${text.padEnd(width)}  ${origin}\n`).join('')
}

/** Opens the database that the settings name, for as long as `work` takes. */
async function withDatabase<T>(work: (database: Database) => Promise<T>): Promise<T> {
  const config = loadConfig()
  const { target, stop } = await locateDatabase(
    config,
    (message) => void process.stderr.write(`${message}\n`),
  )
  const database = connectDatabase({ target, poolMax: 1 })
  try {
    return await work(database)
  } finally {
    await database.close()
    await stop()
  }
}

function describeApplied(names: string[]): string {
  if (names.length === 0) return 'nothing to apply: the database is up to date\n'
  return describeStatus({ applied: names, pending: [] })
}

function describeStatus({ applied, pending }: MigrationStatus): string {
  return [
    ...applied.map((name) => `applied  ${name}\n`),
    ...pending.map((name) => `pending  ${name}\n`),
  ].join('')
}

async function takeSnapshot(given: string | undefined): Promise<string> {
  const config = loadConfig()
  const url = given?.replace(/\/+$/, '') ?? urlOf(config.HOST, config.PORT)
  // These settings' own token is for the service that they start, not for whatever a URL names.
  const token = process.env.ADMIN_TOKEN || (given === undefined ? config.ADMIN_TOKENS[0] : undefined)
  const response = await fetch(`${url}/telemetry/snapshot`, {
    method: 'POST',
    ...(token !== undefined && { headers: { authorization: `Bearer ${token}` } }),
    // A redirection would turn it into a GET, which answers with a preview.
    redirect: 'manual',
    signal: AbortSignal.timeout(SNAPSHOT_TIMEOUT_MS),
  }).catch((error: unknown) => {
    throw new Error(
      `no answer from ${url} (${reasonOf(error)}): start the service, or say where it is with --url`,
    )
  })
  const text = await response.text()
  const answer = parseAnswer(text)
  if (response.status === 200 && answer !== undefined) return `${JSON.stringify(answer, null, 2)}\n`
  if (response.status === 401)
    throw new Error(
      `${url} does not know ${token === undefined ? 'who asks' : 'this token'}: set ADMIN_TOKEN to one of the service's ADMIN_TOKENS`,
    )
  throw new Error(`${url} answered ${response.status}: ${answer?.message ?? 'this is no boundary-usage'}`)
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { cause } = error
  return cause instanceof Error && 'code' in cause ? String(cause.code) : error.message
}

/** Undefined where it is not the service that answered. */
function parseAnswer(text: string): { message?: string } | undefined {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
