// The log: JSON lines on stdout, or lines for people on a terminal; and how what lasts for a while is told.

import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import { type DestinationStream, destination, pino } from 'pino'

/** Requests and answers whole, as Fastify would log them with an error: they have tokens in their headers. */
const HIDDEN = { req: () => undefined, res: () => undefined }

/**
 * Gives the service its log. Not as Fastify's option `logger`: it would listen for the end of every answer, which
 * takes as long as validating a batch. Requests keep the silent logger that Fastify has without the option, one for
 * all of a process, so that one has to speak up on faults.
 */
export function useLog(app: FastifyInstance, level: string, stream: DestinationStream): void {
  const log = pino({ level, serializers: HIDDEN }, stream)
  for (const loud of ['warn', 'error', 'fatal'] as const) app.log[loud] = log[loud].bind(log)
  app.log = log
}

/**
 * Where the log goes. pino-pretty is optional: a terminal without it gets JSON, too. Either writes at once: what is
 * on its way when the process exits may come after the last line, or not at all.
 */
export async function logStream(isTerminal: boolean): Promise<DestinationStream> {
  const pretty = isTerminal ? await import('pino-pretty').catch(() => undefined) : undefined
  return pretty
    ? pretty.default({ sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss.l' })
    : destination({ sync: true })
}

/** What goes wrong for a while: one line when that begins and one when it is over, however often it is tried. */
export interface OutageLog {
  failed(fields: object): void
  recovered(): void
}

export function outageLog(
  log: FastifyBaseLogger,
  level: 'warn' | 'error',
  begins: string,
  ends: string,
): OutageLog {
  let isFailing = false
  return {
    failed(fields) {
      if (!isFailing) log[level](fields, begins)
      isFailing = true
    },
    recovered() {
      if (isFailing) log.info(ends)
      isFailing = false
    },
  }
}
