// Locates the configured database; starts the embedded one if there is none.

import { type Config, ConfigError } from '../config.js'
import { hostsOf } from '../database-url.js'
import type { DatabaseTarget } from './client.js'

export interface Located {
  target: DatabaseTarget
  /** For people: the hosts and ports. */
  name: string
  /** Stops the embedded server, if it was started. */
  stop: () => Promise<void>
}

export async function locateDatabase(config: Config, log: (message: string) => void): Promise<Located> {
  const { DATABASE_URL: url } = config
  if (url !== undefined) return { target: { url }, name: hostsOf(url), stop: async () => {} }
  // Imported only here: it is an optional dependency.
  const { startEmbedded } = await import('./embedded.js')
  const embedded = await startEmbedded(config.DATA_DIR, log).catch((error: unknown) => {
    if (!(error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND')) throw error
    throw new ConfigError(
      'DATABASE_URL: got nothing, needed where the embedded PostgreSQL is not installed, which npm install --include=optional does',
    )
  })
  return { target: { path: embedded.socketPath }, name: 'the embedded PostgreSQL', stop: embedded.stop }
}
