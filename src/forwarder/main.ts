// boundary-usage forward: carries the logs of boundaries from a unix socket to the service.
//
//   boundary ──► socket ──► store ──► sender ──► the service
//                  │          └──► spool
//                  └──► tee

import { lstat } from 'node:fs/promises'
import { pause } from '../async.js'
import { InUseError, lockDirectory, lockPath } from '../directory-lock.js'
import { version } from '../version.js'
import { check, WAIT_LIMIT_MS, waitFor } from './check.js'
import { HELP, readInvocation, type Settings, SettingsError } from './config.js'
import { Credentials } from './credentials.js'
import { createLog, type Log } from './log.js'
import { Client } from './post.js'
import { Sender } from './sender.js'
import { Intake } from './socket.js'
import { prepareDirectory, Spool } from './spool.js'
import { Store } from './store.js'
import { Tee } from './tee.js'
import { Totals } from './totals.js'

const REPORT_INTERVAL_MS = 60_000
/** How long to send after SIGTERM, and how long to wait for the disk then. */
const LAST_SENDING_MS = 5_000
const LAST_WRITING_MS = 1_000
const POLL_MS = 20

/** Runs what the arguments ask for; returns the exit code. */
export async function forward(args: string[], env = process.env): Promise<number> {
  try {
    const invocation = readInvocation(args, env)
    switch (invocation.command) {
      case 'help':
        return print(HELP)
      case 'version':
        return print(version)
      case 'wait':
        if (await waitFor(invocation.socket)) return 0
        return complain(
          `no forwarder has accepted on ${invocation.socket} within ${WAIT_LIMIT_MS / 1000} s`,
          1,
        )
      case 'check':
        return (await check(invocation.settings, print)) ? 0 : 1
      case 'run':
        return await run(invocation.settings)
    }
  } catch (error) {
    if (error instanceof SettingsError) return complain(error.message, 2)
    if (error instanceof InUseError || (error instanceof Error && 'code' in error))
      return complain(error.message, 1)
    throw error
  }
}

function print(text: string): 0 {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`)
  return 0
}

function complain(message: string, exitCode: number): number {
  for (const line of message.split('\n')) process.stderr.write(`boundary-usage forward: ${line}\n`)
  return exitCode
}

async function run(settings: Settings): Promise<number> {
  const log = createLog(settings.logLevel)
  const totals = new Totals()
  const ended = untilSignal()
  const unlock = await lockAll(settings)
  const credentials = new Credentials({ ...settings, file: settings.tokenFile })
  const store = new Store({ limit: settings.spoolLimit, totals, log, onAdded: () => sender.notify() })
  const client = new Client()
  const sender = new Sender({ urls: settings.urls, credentials, store, client, totals, log })
  const tee = settings.tee === undefined ? undefined : new Tee({ path: settings.tee, totals, log })
  if (settings.spool !== undefined)
    store.spool = await Spool.open({
      directory: settings.spool,
      limit: settings.spoolLimit,
      store,
      totals,
      log,
    })
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

  const state = () => ({
    ...totals,
    logs_waiting: store.logs,
    bytes_waiting: store.bytes,
    connections: intake.connections,
  })
  const reporting = reportTotals(log, state)
  await store.spool?.recover()
  if (totals.logs_recovered > 0) log.info('found logs in the spool', { logs: totals.logs_recovered })

  const signal = await ended
  log.info('shutting down', { signal })
  await intake.drain()
  const passedOn = tee?.end()
  sender.hurry()
  for (const began = performance.now(); store.logs > 0 && performance.now() - began < LAST_SENDING_MS; )
    await pause(POLL_MS)
  sender.stop()
  await store.spool?.close(AbortSignal.timeout(LAST_WRITING_MS))
  await Promise.race([passedOn, pause(LAST_WRITING_MS)])
  reporting.stop()

  const lost = store.spool === undefined ? store.logs : countUnwritten(store.spool)
  log.info('totals', state())
  if (lost > 0) log.error('logs are lost: they were neither sent nor written', { logs: lost })
  log.info('stopped', { logs_kept_in_spool: store.logs - lost, logs_lost: lost })
  store.close()
  client.close()
  await unlock()
  log.flush()
  return 0
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

/** Resolves with the first signal that ends the process; later ones change nothing. */
function untilSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, resolve)
  })
}

/** Logs totals on SIGUSR2, and each minute if they have changed. */
function reportTotals(log: Log, state: () => object): { stop(): void } {
  let reported = JSON.stringify(state())
  const report = () => {
    reported = JSON.stringify(state())
    log.info('totals', state())
  }
  const timer = setInterval(() => {
    if (JSON.stringify(state()) !== reported) report()
  }, REPORT_INTERVAL_MS)
  process.on('SIGUSR2', report)
  return {
    stop() {
      clearInterval(timer)
      process.off('SIGUSR2', report)
    },
  }
}

function countUnwritten(spool: Spool): number {
  let logs = 0
  for (const entry of spool.unwritten) if (entry.record === undefined) logs += entry.logs
  return logs
}
