// A forwarder: its parts, how they start, and how they end.
//
//   boundary ──► socket ──► store ──► sender ──► the service
//                  │          └──► spool
//                  └──► tee

import { lstat } from 'node:fs/promises'
import { pause } from '../async.js'
import { InUseError, lockDirectory, lockPath } from '../directory-lock.js'
import { version } from '../version.js'
import type { Settings } from './config.js'
import { Credentials } from './credentials.js'
import type { Log } from './log.js'
import { Client } from './post.js'
import { Sender } from './sender.js'
import { Intake } from './socket.js'
import { prepareDirectory, Spool } from './spool.js'
import { Store } from './store.js'
import { Tee } from './tee.js'
import { Totals } from './totals.js'

/** At the end: how long to send, and how long to wait for the disk and the tee. */
const LAST_SENDING_MS = 5_000
const LAST_WRITING_MS = 1_000
const POLL_MS = 20

export interface Forwarder {
  /** The totals, and what it holds at the moment. */
  state(): Totals & { logs_waiting: number; bytes_waiting: number; connections: number }
  /** Resolves when what an earlier forwarder left in the spool has been found. */
  recovered: Promise<void>
  /** Reads what boundaries have sent, sends for a few seconds, and keeps the rest in the spool, if there is one. */
  stop(): Promise<{ kept: number; lost: number }>
}

/** Starts one; resolves when it accepts connections. Rejects with InUseError if another one has the socket or the spool. */
export async function startForwarder(settings: Settings, log: Log): Promise<Forwarder> {
  const unlock = await lockAll(settings)
  const totals = new Totals()
  const credentials = new Credentials({ ...settings, file: settings.tokenFile })
  const store = new Store({ limit: settings.spoolLimit, totals, log, onAdded: () => sender.notify() })
  const client = new Client()
  const sender = new Sender({ urls: settings.urls, credentials, store, client, totals, log })
  const tee = settings.tee === undefined ? undefined : new Tee({ path: settings.tee, totals, log })
  const spool =
    settings.spool === undefined
      ? undefined
      : await Spool.open({ directory: settings.spool, limit: settings.spoolLimit, store, totals, log })
  store.spool = spool
  const intake = new Intake({
    path: settings.socket,
    mode: settings.socketMode,
    ids: () => credentials.ids,
    store,
    tee,
    totals,
    log,
  })
  await intake.listen()
  log.info('forwarding', { version, socket: settings.socket, urls: settings.urls.map(({ href }) => href) })

  return {
    recovered: recover(),
    state: () => ({
      ...totals,
      logs_waiting: store.logs,
      bytes_waiting: store.bytes,
      connections: intake.connections,
    }),
    async stop() {
      await intake.drain()
      const passedOn = tee?.end()
      sender.hurry()
      for (const began = performance.now(); store.logs > 0 && performance.now() - began < LAST_SENDING_MS; )
        await pause(POLL_MS)
      sender.stop()
      await spool?.close(AbortSignal.timeout(LAST_WRITING_MS))
      await Promise.race([passedOn, pause(LAST_WRITING_MS)])
      store.close()
      client.close()
      await unlock()
      const lost = spool === undefined ? store.logs : countUnwritten(spool)
      return { kept: store.logs - lost, lost }
    },
  }

  async function recover(): Promise<void> {
    await spool?.recover()
    if (totals.logs_recovered > 0) log.info('found logs in the spool', { logs: totals.logs_recovered })
  }
}

/** The socket's path and the spool each belong to one forwarder. */
async function lockAll({ socket, spool }: Settings): Promise<() => Promise<void>> {
  const stats = await lstat(socket).catch(() => undefined)
  if (stats !== undefined && !stats.isSocket())
    throw new InUseError(`--socket: ${socket} exists and is no socket: remove it or use another path`)
  const unlockSocket = await lockPath(
    `${socket}.lock`,
    `--socket: ${socket} is in use by another forwarder: stop that one, or use another path`,
  )
  if (spool === undefined) return unlockSocket
  try {
    await prepareDirectory(spool)
    const unlockSpool = await lockDirectory(
      spool,
      `--spool: ${spool} is in use by another forwarder: stop that one, or use another directory`,
    )
    return async () => {
      await unlockSpool()
      await unlockSocket()
    }
  } catch (error) {
    await unlockSocket()
    throw error
  }
}

function countUnwritten(spool: Spool): number {
  let logs = 0
  for (const entry of spool.unwritten) if (entry.record === undefined) logs += entry.logs
  return logs
}
