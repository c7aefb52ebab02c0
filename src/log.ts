// The log: JSON lines on stdout, or human-readable lines on a terminal; and one line each for start and end of an outage.

import { type FastifyBaseLogger, LogController } from 'fastify'
import { type DestinationStream, destination, pino } from 'pino'

/** Fastify logs some errors together with the whole request and response, whose headers contain tokens. */
const HIDDEN = { req: () => undefined, res: () => undefined }

/** Creates the log of the service. */
export function createLog(level: string, stream: DestinationStream): FastifyBaseLogger {
  return pino({ level, serializers: HIDDEN }, stream)
}

/** Logs errors, but not each request. */
class ErrorsOnly extends LogController {
  override incomingRequest(): void {}
}

/**
 * The options of Fastify by which requests log to `log`. The application's own log must be assigned to `app.log`
 * instead of passed as `loggerInstance`: with that option, Fastify listens for the end of every response, which takes
 * as long as validating a batch of 10 logs.
 */
export function requestLogging(log: FastifyBaseLogger) {
  return { childLoggerFactory: () => log, logController: new ErrorsOnly() }
}

/**
 * The destination of the log. A terminal gets JSON, too, if the optional pino-pretty is not installed. Both write
 * synchronously, because buffered lines may be lost or out of order when the process exits.
 */
export async function logStream(isTerminal: boolean): Promise<DestinationStream> {
  const pretty = isTerminal ? await import('pino-pretty').catch(() => undefined) : undefined
  return pretty
    ? pretty.default({ sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss.l' })
    : destination({ sync: true })
}

/** Logs one line when an operation begins to fail and one when it works again, whatever the number of attempts. */
export interface OutageLog {
  failed(fields: object): void
  recovered(): void
}

export function outageLog(
  log: FastifyBaseLogger,
  level: 'warn' | 'error',
  failure: string,
  recovery: string,
): OutageLog {
  let isFailing = false
  return {
    failed(fields) {
      if (!isFailing) log[level](fields, failure)
      isFailing = true
    },
    recovered() {
      if (isFailing) log.info(recovery)
      isFailing = false
    },
  }
}
