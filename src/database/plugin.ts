// The database of this replica: its connections, the embedded server if it is used, and the migrations at start.

import type { FastifyBaseLogger } from 'fastify'
import fp from 'fastify-plugin'
import { backoff, pause } from '../async.js'
import type { Config } from '../config.js'
import { outageLog } from '../log.js'
import { StartError } from '../start-error.js'
import type { Timing } from '../timing.js'
import {
  connectDatabase,
  type Database,
  DatabaseUnavailableError,
  type Db,
  type RunOptions,
  TemporaryDatabaseError,
} from './client.js'
import { type Listener, type ListenerOptions, openListener } from './listener.js'
import { locateDatabase } from './locate.js'
import { checkMigrated, migrate } from './migrate.js'
import { readSketchKey } from './settings.js'
import { representable } from './text.js'
import { compact } from './upkeep.js'

const FIRST_RETRY_MS = 100
const LONGEST_RETRY_MS = 1_000

/** What a replica reads at start. */
interface Shared {
  sketchKey: Uint8Array
  /** REPLICA_NAME in characters that the database can store. */
  replicaName: string
}

declare module 'fastify' {
  interface FastifyInstance {
    database: {
      /** Runs `work` as Database.run does; rejects with DatabaseUnavailableError until the schema is in place. */
      run<T>(work: (db: Db) => Promise<T>, options?: RunOptions): Promise<T>
      /** Resolves once the schema is in place; rejects if waiting cannot help. */
      readonly prepared: Promise<Shared>
      readonly isPrepared: boolean
      readonly up: boolean
      /**
       * Opens a connection that listens, which the caller closes. Undefined if the database offers none: a pooler in
       * transaction mode, or the embedded server, which has one replica.
       */
      listen(options: Omit<ListenerOptions, 'target' | 'timing'>): Listener | undefined
    }
  }
}

export default fp<{ config: Config; timing: Timing }>(
  async (app, { config, timing }) => {
    const { target, name, stop } = await locateDatabase(config, app.log.info.bind(app.log))
    const isEmbedded = config.DATABASE_URL === undefined
    if (isEmbedded && config.ACK === 'durable')
      app.log.warn(
        'ACK=durable with the embedded PostgreSQL: a batch that was acknowledged survives the end of the process, but not a power failure: set DATABASE_URL for that',
      )
    let isPrepared = false
    const database = connectDatabase({
      target,
      poolMax: config.DATABASE_POOL_MAX,
      durable: config.ACK === 'durable',
      timing,
      onUp: (up, cause) => {
        if (up) app.log.info('database reached')
        else if (isPrepared) app.log.error({ err: cause }, 'database lost')
        else app.log.error(`cannot reach ${name}, trying again: ${cause?.message}`)
      },
    })

    const prepared = prepare(database, config, app.log, app.shutdown.signal).then((shared) => {
      isPrepared = true
      return shared
    })
    prepared.catch(() => {}) // the server awaits it and exits; elsewhere, the replica is never ready
    const upkeep = isEmbedded
      ? prepared.then(() => keepCompact(database, timing, app.log, app.shutdown.signal))
      : undefined
    upkeep?.catch(() => {}) // the rejection of `prepared`

    app.decorate('database', {
      async run(work, options) {
        if (!isPrepared)
          throw new DatabaseUnavailableError(
            database.up === false
              ? 'the database has not been reached yet'
              : 'the schema is not in place yet',
          )
        return database.run(work, options)
      },
      prepared,
      get isPrepared() {
        return isPrepared
      },
      get up() {
        return database.up === true
      },
      listen: (options) =>
        isEmbedded || config.DATABASE_TRANSACTION_POOLING
          ? undefined
          : openListener({ target, timing, ...options }),
    })

    app.metrics.gauge('boundary_usage_database_up', 'Whether the last use of the database reached it.', () =>
      database.up ? 1 : 0,
    )

    app.addHook('onClose', async () => {
      await upkeep?.catch(() => {})
      await database.close()
      await stop()
    })
  },
  { name: 'database', dependencies: ['metrics', 'shutdown'] },
)

/** Migrates or verifies the schema and reads the shared settings; retries while the database is unavailable. */
async function prepare(
  database: Database,
  config: Config,
  log: FastifyBaseLogger,
  signal: AbortSignal,
): Promise<Shared> {
  for (let failures = 1; ; failures++) {
    try {
      if (config.MIGRATE_ON_START) {
        const migrations = await migrate(database)
        if (migrations.length > 0) log.info({ migrations }, 'migrations applied')
      } else await checkMigrated(database)
      return {
        sketchKey: await database.run(readSketchKey),
        replicaName: await database.run((db) => representable(db, config.REPLICA_NAME)),
      }
    } catch (error) {
      if (signal.aborted || !(error instanceof TemporaryDatabaseError)) throw explain(error)
      await pause(backoff(failures, FIRST_RETRY_MS, LONGEST_RETRY_MS), { signal, ref: false })
      signal.throwIfAborted()
    }
  }
}

/** Keeps the embedded PostgreSQL small until `signal` is aborted. */
async function keepCompact(
  database: Database,
  { upkeepMs, upkeepBytes }: Timing,
  log: FastifyBaseLogger,
  signal: AbortSignal,
): Promise<void> {
  const failures = outageLog(
    log,
    'warn',
    'the embedded PostgreSQL was not vacuumed: it will be retried',
    'the embedded PostgreSQL is vacuumed again',
  )
  while (!signal.aborted) {
    try {
      const bytes = await database.run((db) => compact(db, upkeepBytes))
      if (bytes !== undefined) log.debug({ bytes }, 'the embedded PostgreSQL was vacuumed')
      failures.recovered()
    } catch (err) {
      if (!signal.aborted) failures.failed({ err })
    }
    await pause(upkeepMs, { signal, ref: false })
  }
}

const INSUFFICIENT_PRIVILEGE = '42501'

/** What the server or TLS refuses needs no stack trace: a wrong password, database name or certificate. */
function explain(error: unknown): unknown {
  if (error instanceof StartError || !(error instanceof Error && 'code' in error)) return error
  const remedy =
    error.code === INSUFFICIENT_PRIVILEGE
      ? 'grant the privileges that docs/operating.md lists'
      : 'correct DATABASE_URL or the database'
  return new StartError(`the database refuses this replica: ${error.message}: ${remedy}`)
}
