// The log: JSON lines on stdout, or prettier ones where a person reads them; and how what lasts is told.

import type { FastifyBaseLogger, FastifyLoggerOptions } from 'fastify'

/** The options of the logger. pino-pretty is optional: a terminal without it gets JSON, too. */
export async function logOptions(
  level: string,
  isTerminal = process.stdout.isTTY,
): Promise<FastifyLoggerOptions> {
  const pretty = isTerminal ? await import('pino-pretty').catch(() => undefined) : undefined
  if (!pretty) return { level }
  // In this thread, so that the last line of a process that ends at once is not lost.
  return {
    level,
    stream: pretty.default({ sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss.l' }),
  }
}

/** What goes wrong for a while is one line when that begins and one when it is over, however often it is tried. */
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
