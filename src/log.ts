// The log: JSON lines on stdout, or lines for people on a terminal; and how what lasts for a while is told.

import type { FastifyBaseLogger } from 'fastify'
import { type DestinationStream, destination } from 'pino'

/**
 * Where the log goes. pino-pretty is optional: a terminal without it gets JSON, too. Either writes at once: what is on its way when the
 * process exits may come after the last line, or not at all.
 */
export async function logStream(isTerminal: boolean): Promise<DestinationStream> {
  const pretty = isTerminal ? await import('pino-pretty').catch(() => undefined) : undefined
  return pretty
    ? pretty.default({ sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss.l' })
    : destination({ sync: true })
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
