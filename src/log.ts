// The log: JSON lines on stdout, or human-readable lines on a terminal; and one line each for start and end of an outage.

import { type FastifyBaseLogger, type FastifyReply, type FastifyRequest, LogController } from 'fastify'
import { type DestinationStream, pino } from 'pino'
import { createOutput, type Output, openStdout } from './output.js'

/** Fastify logs some errors together with the whole request and response, whose headers contain tokens. */
const HIDDEN = { req: () => undefined, res: () => undefined }

/** Creates the log of the service. */
export function createLog(level: string, stream: DestinationStream): FastifyBaseLogger {
  return pino({ level, serializers: HIDDEN }, stream)
}

/** Logs errors, but not each request. */
class ErrorsOnly extends LogController {
  readonly #log: FastifyBaseLogger

  constructor(log: FastifyBaseLogger) {
    super()
    this.#log = log
  }

  override incomingRequest(request: FastifyRequest, reply: FastifyReply): void {
    request.log = this.#log
    reply.log = this.#log
  }
}

/**
 * The options of Fastify by which requests log to `log`. The application's own log must be assigned to `app.log`
 * instead of passed as `loggerInstance`: with that option, Fastify listens for the end of every response, which takes
 * as long as validating a batch of 10 logs. (With `childLoggerFactory`, it would check the log for every request.)
 */
export function requestLogging(log: FastifyBaseLogger) {
  return { logController: new ErrorsOnly(log) }
}

/**
 * Opens stdout for the log. Nothing waits for its reader: see output.ts. On a terminal, lines are formatted for people
 * if pino-pretty, which is optional, is installed.
 */
export async function stdoutLog(isTerminal: boolean, fd = openStdout()): Promise<Output> {
  const pretty = isTerminal ? await import('pino-pretty').catch(() => undefined) : undefined
  const format = pretty?.prettyFactory({
    colorize: true,
    ignore: 'pid,hostname',
    translateTime: 'SYS:HH:MM:ss.l',
  })
  const toText = (line: string) => format?.(line) ?? line
  const output = createOutput({
    fd,
    reportDropped(lines) {
      let report = ''
      pino({}, { write: (line) => (report = line) }).warn({ lines }, 'log lines dropped: stdout was not read')
      return toText(report)
    },
  })
  return { ...output, write: (line) => output.write(toText(line)) }
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
