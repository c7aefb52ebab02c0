// The log: JSON lines on stdout, or lines for people on a terminal; and how what lasts for a while is told.

import type { FastifyBaseLogger, FastifyLoggerOptions } from 'fastify'
import { destination } from 'pino'

/**
 * The logger's options. pino-pretty is optional: a terminal without it gets JSON, too. Either writes at once: what
 * is on its way when the process exits may come after the last line, or not at all.
 */
export async function logOptions(
  level: string,
  isTerminal = process.stdout.isTTY,
): Promise<FastifyLoggerOptions> {
  const pretty = isTerminal ? await import('pino-pretty').catch(() => undefined) : undefined
  const stream = pretty
    ? pretty.default({ sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss.l' })
    : destination({ sync: true })
  return { level, stream }
}

/** What goes wrong for a while: one line when that begins and one when it is over, however often it is tried. */
export interface Trouble {
  failed(fields: object): void
  worked(): void
}

export function tellTrouble(
  log: FastifyBaseLogger,
  level: 'warn' | 'error',
  begins: string,
  ends: string,
): Trouble {
  let isFailing = false
  return {
    failed(fields) {
      if (!isFailing) log[level](fields, begins)
      isFailing = true
    },
    worked() {
      if (isFailing) log.info(ends)
      isFailing = false
    },
  }
}
