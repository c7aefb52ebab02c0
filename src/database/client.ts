// The connections to the database: who may use them, their deadlines, and the one error for an unavailable database.

import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { TimeoutError, timeout } from '../async.js'
import { parseDatabaseUrl } from '../database-url.js'
import { TIMING, type Timing } from '../timing.js'
import { type Lane, QueueFullError, Slots } from './slots.js'
import { STATEMENT_TIMEOUT_MS, withOwnTransactions } from './transactions.js'

export type Db = PostgresJsDatabase<Record<string, never>> & { $client: postgres.Sql }
/** Runs statements: a transaction or a connection. */
export type Executor = Pick<Db, 'select' | 'insert' | 'update' | 'delete' | 'with' | '$with' | 'execute'>

const CONNECT_TIMEOUT_S = 5

/** The address of the database: a URL, or the unix socket of the embedded server, which accepts one connection. */
export type DatabaseTarget = { url: string } | { path: string }

export interface DatabaseOptions {
  target: DatabaseTarget
  /** The maximum number of connections; the embedded server accepts one. */
  poolMax: number
  /** Whether a statement's commit waits until it is on disk, whatever the server's default is. */
  durable?: boolean
  timing?: Partial<DatabaseTiming>
  /** For a connection that listens: called with each notification, and when the connection was closed. */
  listening?: { onnotify: (channel: string, message: string) => void; onclose: () => void }
  /** Called when the database becomes unavailable or available. */
  onUp?: (up: boolean, cause?: Error) => void
}

type DatabaseTiming = Pick<
  Timing,
  'databaseDeadlineMs' | 'reconnectMs' | 'requestWaitMs' | 'idleConnectionMs'
>

/** The work can be attempted again: the fault is not in the statement. */
export class TemporaryDatabaseError extends Error {}

/** The database is unavailable or did not respond in time. The work may or may not have been done. */
export class DatabaseUnavailableError extends TemporaryDatabaseError {
  override name = 'DatabaseUnavailableError'
}

/** The database is available, but canceled the work, which was not done. */
export class DatabaseBusyError extends TemporaryDatabaseError {
  override name = 'DatabaseBusyError'
  /** Whether a statement took too long, rather than waited for or conflicted with another one. */
  readonly isTooSlow: boolean

  constructor(cause: Error) {
    super(`the database canceled the statement: ${reasonOf(cause)}`, { cause })
    this.isTooSlow = codeOf(cause) === QUERY_CANCELED
  }
}

/** Other work occupies the connections that requests may use. */
export class DatabaseQueueError extends TemporaryDatabaseError {
  override name = 'DatabaseQueueError'
}

export interface RunOptions {
  /** `background` by default. */
  lane?: Lane
  /** How long the work may take once it has begun, with statements that take up to STATEMENT_TIMEOUT_MS. */
  deadlineMs?: number
  /** How long one of its statements may take; more than STATEMENT_TIMEOUT_MS extends the deadline as well. */
  statementTimeoutMs?: number
}

export interface Database {
  /** Whether the last use reached the database; undefined before the first. */
  readonly up: boolean | undefined
  /**
   * Runs `work` on a connection of its own, which it may wait for. Rejects with DatabaseUnavailableError if the database
   * is unavailable or does not respond within `deadlineMs`, with DatabaseBusyError if it cancels a statement, and with
   * DatabaseQueueError if too many requests wait. At the deadline the connection is closed, and the others live on.
   */
  run<T>(work: (db: Db) => Promise<T>, options?: RunOptions): Promise<T>
  /** Closes all connections; statements in progress are aborted after `timeoutS`. */
  close(timeoutS?: number): Promise<void>
}

/** Creates the connections; each is opened when first needed. */
export function connectDatabase({ timing: given, onUp, ...options }: DatabaseOptions): Database {
  const timing = { ...TIMING, ...given }
  const count = 'path' in options.target ? 1 : options.poolMax
  const slots = new Slots(count, timing.requestWaitMs)
  /** By slot. */
  const connections = new Map<number, Connection>()
  const idleTimers = new Map<number, NodeJS.Timeout>()
  let up: boolean | undefined
  let isClosed = false

  function open(slot: number, statementTimeoutMs: number): Db {
    clearTimeout(idleTimers.get(slot))
    if (isClosed) throw new DatabaseUnavailableError('the connections to the database are closed')
    const connection = connections.get(slot) ?? openConnection(options, timing.reconnectMs)
    connections.set(slot, connection)
    return statementTimeoutMs === STATEMENT_TIMEOUT_MS
      ? connection.db
      : connection.patient(statementTimeoutMs)
  }

  function discard(slot: number): void {
    const connection = connections.get(slot)
    connections.delete(slot)
    void connection?.sql.end({ timeout: 0 })
  }

  /** The first connection stays open for the next flush. */
  function release(slot: number): void {
    if (slot > 0) idleTimers.set(slot, setTimeout(() => discard(slot), timing.idleConnectionMs).unref())
    slots.give(slot)
  }

  function report(now: boolean, cause?: Error): void {
    if (up === now) return
    up = now
    onUp?.(now, cause)
  }

  return {
    get up() {
      return up
    },

    async run(
      work,
      {
        lane = 'background',
        statementTimeoutMs = STATEMENT_TIMEOUT_MS,
        deadlineMs = timing.databaseDeadlineMs,
      } = {},
    ) {
      const slot = await slots.take(lane).catch((cause: unknown) => {
        if (cause instanceof QueueFullError) throw new DatabaseQueueError(cause.message, { cause })
        throw cause
      })
      try {
        const db = open(slot, statementTimeoutMs)
        const result = await timeout(deadlineMs + statementTimeoutMs - STATEMENT_TIMEOUT_MS, () => work(db))
        report(true)
        return result
      } catch (error) {
        const cause = unwrap(error)
        if (cause instanceof TimeoutError) discard(slot)
        else if (!isUnavailable(cause)) {
          report(true)
          throw BUSY_CODES.has(codeOf(cause)) ? new DatabaseBusyError(cause) : cause
        }
        report(false, cause)
        throw new DatabaseUnavailableError(`the database is unavailable: ${reasonOf(cause)}`, { cause })
      } finally {
        release(slot)
      }
    },

    async close(timeoutS = 1) {
      isClosed = true
      for (const timer of idleTimers.values()) clearTimeout(timer)
      await Promise.all([...connections.values()].map(({ sql }) => sql.end({ timeout: timeoutS })))
    },
  }
}

/** One connection, opened when first used and again after it was lost. */
export interface Connection {
  sql: postgres.Sql
  db: Db
  /** The same for statements that may take so long. */
  patient(statementTimeoutMs: number): Db
}

const PARAMETERS = { application_name: 'boundary-usage' }

function urlOptions(url: string) {
  const { connection, ...options } = parseDatabaseUrl(url)
  const given = Object.entries(options).filter(([, value]) => value !== undefined)
  return { ...Object.fromEntries(given), connection: { ...PARAMETERS, ...connection } }
}

/** Creates a connection, which the caller must end. `reconnectMs` bounds the delay before a failed one is reopened. */
export function openConnection(
  { target, durable = false, listening }: Pick<DatabaseOptions, 'target' | 'durable' | 'listening'>,
  reconnectMs: number,
): Connection {
  const common = {
    max: 1,
    connect_timeout: CONNECT_TIMEOUT_S,
    // The callers back off; a connection that also waits would only delay the recovery.
    backoff: () => (reconnectMs / 1000) * (0.2 + 0.8 * Math.random()),
    fetch_types: false,
    // A named statement belongs to a session, and a pooler may give the next transaction another one.
    prepare: false,
    connection: PARAMETERS,
    onnotice: () => {},
    ...(listening && { ...listening, max_lifetime: null }),
  } satisfies postgres.Options<Record<string, never>>
  const sql =
    'path' in target
      ? postgres({ ...common, path: target.path, user: 'postgres', database: 'postgres', max_lifetime: null })
      : postgres({ ...common, ...urlOptions(target.url) })
  const patient = (statementTimeoutMs?: number) =>
    drizzle(withOwnTransactions(sql, durable, statementTimeoutMs))
  return { sql, db: patient(), patient }
}

/** Returns the driver's error, without the one that Drizzle adds: its message contains the statement's parameters. */
function unwrap(error: unknown): Error {
  if (error instanceof Error && 'query' in error && error.cause instanceof Error) return error.cause
  return error instanceof Error ? error : new Error(String(error))
}

/** The error for a host name of which no address responds has no message. */
function reasonOf(error: Error): string {
  return error.message || codeOf(error) || error.name
}

function codeOf(error: Error): string {
  return 'code' in error ? String(error.code) : ''
}

/** Codes of Node.js, postgres.js and PostgreSQL (SQLSTATE) for temporary conditions. */
const UNAVAILABLE_CODES = new Set([
  ...['CONNECT_TIMEOUT', 'CONNECTION_CLOSED', 'CONNECTION_DESTROYED', 'CONNECTION_ENDED'],
  ...['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND'],
  ...['EAI_AGAIN', 'ENOENT', 'EADDRNOTAVAIL', 'ECONNABORTED'],
  '25P03', // idle_in_transaction_session_timeout
  '25P04', // transaction_timeout
  '25006', // read_only_sql_transaction: a standby, or a demoted primary
])
const QUERY_CANCELED = '57014' // also by statement_timeout
/** Codes of a server that was reached but could not complete the statement now. */
const BUSY_CODES = new Set([
  '40001', // serialization_failure
  '40P01', // deadlock_detected
  '55P03', // lock_not_available
  QUERY_CANCELED,
])
/** SQLSTATE classes: connection exception, insufficient resources, operator intervention. */
const UNAVAILABLE_CLASSES = new Set(['08', '53', '57'])

function isUnavailable(error: Error): boolean {
  const code = codeOf(error)
  if (BUSY_CODES.has(code)) return false
  if (UNAVAILABLE_CODES.has(code)) return true
  if (error instanceof AggregateError) return error.errors.some(isUnavailable)
  return code.length === 5 && UNAVAILABLE_CLASSES.has(code.slice(0, 2))
}
