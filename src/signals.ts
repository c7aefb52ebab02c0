// Ends the process in order: on the first signal or fatal error it closes once, within a time limit.

import type { FastifyBaseLogger } from 'fastify'

/** Signals that ask a process to end, and those whose default action would end it at once. */
const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR2'] as const
/** A Ctrl-C this long after the previous signal comes from a person who waits, not from a second sender of the first. */
const INSIST_AFTER_MS = 1_000

export type EndReason = { signal: NodeJS.Signals } | { err: unknown } | { failedStart: true }

export interface EndOptions {
  log: Pick<FastifyBaseLogger, 'info' | 'warn' | 'error' | 'fatal'>
  /** Closes everything; resolves with the exit code. Called once. */
  close: (reason: EndReason) => Promise<number>
  /** The longest time that `close` may take, in milliseconds. */
  timeoutMs: number
  /** Ends the process with that code. */
  exit: (code: number) => Promise<void>
  /** Where signals and errors arrive; for tests. */
  events?: Pick<NodeJS.EventEmitter, 'on'>
  /** A monotonic clock in milliseconds; for tests. */
  now?: () => number
}

/**
 * Handles signals and fatal errors from now on. Returns a function that ends the process for another reason.
 *
 * One request to end often arrives as several signals: a terminal signals npm and the service, and npm forwards its
 * own; supervisors signal a process and then its group. Repeated signals are therefore ignored. Only a Ctrl-C that
 * comes more than a second after the previous signal gives up early.
 */
export function endInOrder({
  log,
  close,
  timeoutMs,
  exit,
  events = process,
  now = () => performance.now(),
}: EndOptions): (reason: EndReason) => Promise<void> {
  let ending: Promise<void> | undefined
  let lastSignalAt = 0

  function end(reason: EndReason): Promise<void> {
    ending ??= run(reason)
    return ending
  }

  async function run(reason: EndReason): Promise<void> {
    const timer = setTimeout(() => {
      log.error(`shutdown took longer than ${timeoutMs} ms: exiting, requests not yet flushed are lost`)
      void exit(1)
    }, timeoutMs)
    const code = await close(reason).catch((err) => {
      log.error({ err }, 'shutdown failed')
      return 1
    })
    clearTimeout(timer)
    await exit(code)
  }

  for (const signal of SIGNALS)
    events.on(signal, () => {
      const sincePrevious = now() - lastSignalAt
      lastSignalAt = now()
      if (!ending) return void end({ signal })
      if (signal !== 'SIGINT' || sincePrevious < INSIST_AFTER_MS) return
      log.error('second Ctrl-C: exiting at once, requests not yet flushed are lost')
      void exit(1)
    })
  for (const event of ['uncaughtException', 'unhandledRejection'] as const)
    events.on(event, (err: unknown) => {
      if (ending) log.error({ err }, 'uncaught error during shutdown')
      else void end({ err })
    })
  return end
}
