// boundary-usage forward: the command, from its arguments to its exit status.

import { InUseError } from '../directory-lock.js'
import { version } from '../version.js'
import { check, WAIT_LIMIT_MS, waitFor } from './check.js'
import { HELP, readInvocation, type Settings, SettingsError } from './config.js'
import { startForwarder } from './forwarder.js'
import { createLog, type Log } from './log.js'

const REPORT_INTERVAL_MS = 60_000

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
  const ended = untilSignal()
  const reporting = reportTotals(log)
  const forwarder = await startForwarder(settings, log)
  reporting.start(forwarder.state)
  const signal = await ended
  log.info('shutting down', { signal })
  await forwarder.recovered
  const { kept, lost } = await forwarder.stop()
  reporting.stop()
  log.info('totals', forwarder.state())
  if (lost > 0) log.error('logs are lost: they were neither sent nor written', { logs: lost })
  log.info('stopped', { logs_kept_in_spool: kept, logs_lost: lost })
  log.flush()
  return 0
}

/** Resolves with the first signal that ends the process; later ones change nothing. */
function untilSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, resolve)
  })
}

/**
 * Logs totals on SIGUSR2, and, between start() and stop(), each minute if they have changed. It handles the signal for
 * the whole life of the process, because an unhandled SIGUSR2 ends it.
 */
function reportTotals(log: Log): { start(state: () => object): void; stop(): void } {
  let read: () => object = () => ({})
  let reported = ''
  let timer: NodeJS.Timeout | undefined
  const report = () => {
    reported = JSON.stringify(read())
    log.info('totals', read())
  }
  process.on('SIGUSR2', report)
  return {
    start(state) {
      read = state
      reported = JSON.stringify(state())
      timer = setInterval(() => {
        if (JSON.stringify(state()) !== reported) report()
      }, REPORT_INTERVAL_MS)
    },
    stop() {
      clearInterval(timer)
    },
  }
}
