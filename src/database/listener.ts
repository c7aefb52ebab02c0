// The connection on which a replica hears what the others announce with NOTIFY.

import { type SQL, sql } from 'drizzle-orm'
import type { Timing } from '../timing.js'
import { connectDatabase, type Database, type DatabaseTarget, type Executor } from './client.js'
import { channel } from './locks.js'

export interface ListenerOptions {
  target: DatabaseTarget
  timing: Pick<Timing, 'databaseDeadlineMs' | 'reconnectMs'>
  /** Called with each message; one is missed if the connection is lost before. */
  onMessage: (message: string) => void
  /** Called when the connection was lost: run() must be called to listen again. */
  onLost: () => void
}

export interface Listener {
  /** Runs `work` on the connection, after making sure that it listens. If that fails, the next call opens a new one. */
  run<T>(work: (db: Executor) => Promise<T>): Promise<T>
  close(): Promise<void>
}

/** A statement that sends `message` to all replicas that listen, this one included, when it commits. */
export const notification = (message: SQL): SQL => sql`pg_notify(${channel}, ${message})`

/**
 * A connection of its own, because a notification reaches the session that listens, and one of the pool may be busy or
 * closed. Nothing tells that a connection is dead as long as nothing is sent on it: heartbeats must use this one.
 */
export function openListener({ target, timing, onMessage, onLost }: ListenerOptions): Listener {
  let isClosed = false

  /** The connection that listens, until it is lost: another one that cannot be opened is no loss. */
  let listening: Database | undefined

  function open(): Database {
    const connection = connectDatabase({
      target,
      poolMax: 1,
      timing,
      listening: {
        onnotify: (_channel, message) => onMessage(message),
        onclose: () => {
          if (listening !== connection || isClosed) return
          listening = undefined
          onLost()
        },
      },
    })
    return connection
  }
  let current = open()

  return {
    async run(work) {
      const connection = current
      try {
        const result = await connection.run((db) =>
          db.transaction(async (tx) => {
            const [row] = await tx.execute<{ name: string }>(sql`select ${channel} as name`)
            if (!row) throw new Error('SELECT without FROM returned no row')
            await tx.execute(sql`listen ${sql.identifier(row.name)}`)
            return work(tx)
          }),
        )
        if (connection === current) listening = connection
        return result
      } catch (error) {
        // What failed on it may be the connection itself, or a server that is no longer the primary.
        if (current === connection && !isClosed) {
          current = open()
          void connection.close(0)
        }
        throw error
      }
    },

    async close() {
      isClosed = true
      await current.close(0)
    },
  }
}
