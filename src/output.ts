// Writes lines to stdout without ever waiting for its reader: what does not fit is kept, up to a limit, then dropped.

import { constants, fstatSync, openSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

const MAX_KEPT_BYTES = 1_048_576
const RETRY_MS = 50

/** A destination for lines. */
export interface Output {
  /** Writes a line that ends with a line break. Neither waits nor throws. */
  write(line: string): void
  /** Resolves once everything kept is written, or after `timeoutMs`. */
  drain(timeoutMs: number): Promise<void>
}

export interface OutputOptions {
  /** The file descriptor to write to: it must not block. */
  fd: number
  /** The line that reports how many lines were dropped. */
  reportDropped: (lines: number) => string
  maxKeptBytes?: number
}

/**
 * Opens stdout for writes that do not block.
 *
 * A pipe or terminal is opened anew where the system allows it: the flag O_NONBLOCK belongs to the open file, which
 * other processes share and may reset. Where it cannot be opened anew (a socket, another user's pipe), process.stdout
 * sets the flag on the shared one. Writes to a regular file do not wait for a reader.
 */
export function openStdout(): number {
  const stats = fstatSync(1)
  if (stats.isFile()) return 1
  try {
    return openSync('/dev/fd/1', constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch {
    void process.stdout // its first use sets O_NONBLOCK on pipes and sockets
    return 1
  }
}

/**
 * Lines are written in order. When the reader has stopped, up to `maxKeptBytes` wait for it; further lines are dropped
 * and counted, and a line reports their number once the reader continues. If the reader is gone, all lines are dropped.
 */
export function createOutput({ fd, reportDropped, maxKeptBytes = MAX_KEPT_BYTES }: OutputOptions): Output {
  let kept: Buffer[] = []
  let keptBytes = 0
  let dropped = 0
  let retry: NodeJS.Timeout | undefined

  function keep(bytes: Buffer): void {
    kept.push(bytes)
    keptBytes += bytes.length
  }

  function write(line: string): void {
    if (keptBytes > 0) flush()
    const bytes = Buffer.from(line)
    if (keptBytes + bytes.length > maxKeptBytes) dropped++
    else {
      keep(bytes)
      flush()
    }
  }

  function flush(): void {
    while (kept[0]) {
      const written = attempt(kept[0])
      if (written === undefined) {
        scheduleRetry()
        return
      }
      keptBytes -= written
      kept[0] = kept[0].subarray(written)
      if (kept[0].length === 0) kept.shift()
      if (kept.length === 0 && dropped > 0) {
        keep(Buffer.from(reportDropped(dropped)))
        dropped = 0
      }
    }
  }

  /** The number of bytes written, or undefined if the reader does not take any now. */
  function attempt(bytes: Buffer): number | undefined {
    try {
      return writeSync(fd, bytes)
    } catch (error) {
      if (isRetryable(error)) return undefined
      // The reader is gone or the disk is full: there is no place left to report that.
      dropped += kept.length
      kept = []
      keptBytes = 0
      return undefined
    }
  }

  function scheduleRetry(): void {
    if (kept.length === 0 || retry) return
    retry = setTimeout(() => {
      retry = undefined
      flush()
    }, RETRY_MS).unref()
  }

  return {
    write,
    async drain(timeoutMs) {
      const deadline = performance.now() + timeoutMs
      flush()
      while (kept.length > 0 && performance.now() < deadline) {
        await sleep(RETRY_MS)
        flush()
      }
    },
  }
}

function isRetryable(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'EAGAIN' || error.code === 'EINTR')
}
