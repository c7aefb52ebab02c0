// The log of the forwarder: JSON lines like those of the service. Writing never blocks: whoever reads the log may be
// slow, and no boundary may wait for that.

import { write, writeSync } from 'node:fs'

export const LEVELS = { debug: 20, info: 30, warn: 40, error: 50, silent: 100 } as const
export type Level = keyof typeof LEVELS

/** Lines that may wait for a slow reader; beyond that they are left out. */
const MAX_WAITING = 1_000

export interface Log {
  debug(message: string, fields?: object): void
  info(message: string, fields?: object): void
  warn(message: string, fields?: object): void
  error(message: string, fields?: object): void
  /** Writes what waits, before the process exits. */
  flush(): void
}

export function createLog(least: Level, fd = 1): Log {
  const waiting: string[] = []
  let isWriting = false
  let leftOut = 0

  function put(level: Exclude<Level, 'silent'>, message: string, fields: object = {}): void {
    if (LEVELS[level] < LEVELS[least]) return
    if (waiting.length >= MAX_WAITING) return void leftOut++
    const line = { level: LEVELS[level], time: Date.now(), pid: process.pid, ...fields, msg: message }
    waiting.push(`${JSON.stringify(line)}\n`)
    pump()
  }

  function pump(): void {
    if (isWriting || waiting.length === 0) return
    const text = waiting.splice(0).join('')
    isWriting = true
    writeAll(Buffer.from(text), () => {
      isWriting = false
      if (leftOut > 0) {
        const count = leftOut
        leftOut = 0
        put('warn', 'log lines were left out: their reader is too slow', { count })
      }
      pump()
    })
  }

  function writeAll(bytes: Buffer, done: () => void): void {
    write(fd, bytes, (error, written) => {
      if (error && 'code' in error && error.code === 'EAGAIN')
        return void setTimeout(writeAll, 50, bytes, done)
      // Nobody is left to tell that nobody reads.
      if (error || written === bytes.length) return done()
      writeAll(bytes.subarray(written), done)
    })
  }

  return {
    debug: (message, fields) => put('debug', message, fields),
    info: (message, fields) => put('info', message, fields),
    warn: (message, fields) => put('warn', message, fields),
    error: (message, fields) => put('error', message, fields),
    flush() {
      if (waiting.length === 0) return
      try {
        writeSync(fd, waiting.splice(0).join(''))
      } catch {} // the reader is gone or too slow
    },
  }
}

/** Reports what fails for a while: one line when that begins and one when it is over, however often it is tried. */
export class Trouble {
  #isFailing = false
  readonly #log: Log
  readonly #begins: string
  readonly #ends: string

  constructor(log: Log, begins: string, ends: string) {
    this.#log = log
    this.#begins = begins
    this.#ends = ends
  }

  get isFailing(): boolean {
    return this.#isFailing
  }

  failed(fields: object): void {
    if (!this.#isFailing) this.#log.warn(this.#begins, fields)
    this.#isFailing = true
  }

  worked(fields: object = {}): void {
    if (this.#isFailing) this.#log.info(this.#ends, fields)
    this.#isFailing = false
  }
}
