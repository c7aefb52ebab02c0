// Receives a batch: reads its body within the budget, decompresses it, and parses it.
//
//   small and plain: read ──► parse
//   large and gzip:  read ──► wait in line ──► decompress in another thread ──► wait for a turn ──► parse
//   all others:      read ──► wait for a turn ──► decompress ──► parse
//
// What arrives is accounted for until it is parsed. At any time at most one large and one small body are decompressed.

import type { IncomingHttpHeaders } from 'node:http'
import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { gunzip, gunzipSync } from 'node:zlib'
import type { BodyBudget, Held, Sender } from '../http/body-budget.js'
import { BodyTooLarge, InvalidGzip, Overloaded } from '../http/errors.js'
import type { ReceivedBatch } from './batch.js'
import { type Body, readBody } from './body.js'
import type { Line, Turns } from './turns.js'

/** Parsing so much takes at most a fraction of a millisecond, and decompressing it some milliseconds. */
const SMALL_BYTES = 32_768
/** One read of a connection brings up to 11,000 chunks of one byte, which take some 10 ms. */
const REST_MS = 100

const gunzipInThread = promisify(gunzip)

/** What there is of a request before its body. */
interface Incoming extends Sender {
  headers: IncomingHttpHeaders
  raw: { socket: Socket }
}

type Parse = (body: Buffer, headers: IncomingHttpHeaders) => ReceivedBatch
type Done = (error: Error | null, batch?: ReceivedBatch) => void

export interface Receiving {
  budget: BodyBudget
  turns: Turns
  /** For decompression in another thread: a megabyte of gzip can take a tenth of a second, whatever it contains. */
  line: Line
  /** In bytes, for the body as sent and as decompressed. */
  limit: number
}

/** A content type parser that also validates the body. Its encoding, if any, must be gzip. */
export function receiver({ budget, turns, line, limit }: Receiving, parse: Parse) {
  return (request: Incoming, payload: Readable, done: Done): void => {
    const { headers } = request
    const isGzip = contentEncodings(headers).length > 0
    let held: Held | undefined
    let waiting: Body | undefined
    let isOver = false

    const finish: Done = (error, batch) => {
      if (isOver) return
      isOver = true
      waiting = undefined
      held?.release()
      done(error, batch)
    }
    const onHold = (bytes: number) => {
      held ??= budget.open(request, () => cancel(new Overloaded()))
      held.hold(bytes)
    }
    const parseNow = (bytesOf: () => Buffer) => {
      let batch: ReceivedBatch
      try {
        batch = parse(bytesOf(), headers)
      } catch (error) {
        return finish(error as Error)
      }
      finish(null, batch)
    }
    const parseInTurn = (bytesOf: (body: Body) => Buffer) =>
      new Promise<void>((resolve) => {
        turns.take(request, () => {
          const body = waiting
          if (body) parseNow(() => bytesOf(body))
          resolve()
        })
      })
    const decompressInLine = () =>
      line.take(request, async () => {
        if (!waiting) return
        try {
          const bytes = await decompressApart(Buffer.from(waiting.bytes()), limit)
          await parseInTurn(() => bytes)
        } catch (error) {
          finish(error as Error)
        }
      })

    let cancel: (error: Error) => void = readBody(
      payload,
      {
        declaredLength: headers['content-length'],
        limit,
        onHold,
        onManyChunks: () => rest(request.raw.socket),
      },
      (error, body) => {
        if (body === undefined) return finish(error)
        const isSmall = body.length <= SMALL_BYTES
        if (isSmall && !isGzip) return parseNow(() => body.bytes())
        waiting = body
        cancel = finish
        onHold(body.size)
        if (!isGzip) parseInTurn((body) => body.bytes())
        else if (isSmall) parseInTurn((body) => decompress(body.bytes(), limit))
        else decompressInLine()
      },
    )
  }
}

/**
 * Reads nothing from a connection for a while, so that what it sends takes little of the time of others. Not at once: the
 * body still gets what was read, upon which Node.js resumes the connection.
 */
function rest(socket: Socket): void {
  setImmediate(() => {
    socket.pause()
    setTimeout(() => socket.resume(), REST_MS).unref()
  })
}

/** The encodings that were applied to the body, in order; identity is none. */
export function contentEncodings({ 'content-encoding': header }: IncomingHttpHeaders): string[] {
  if (header === undefined) return []
  const listed = header.split(',').map((encoding) => encoding.trim().toLowerCase())
  return listed.filter((encoding) => encoding !== '' && encoding !== 'identity')
}

function decompress(body: Buffer, limit: number): Buffer {
  try {
    return gunzipSync(body, { maxOutputLength: limit })
  } catch (error) {
    throw decompressionError(error)
  }
}

/** Takes none of the event loop's time. `body` must not change meanwhile. */
async function decompressApart(body: Buffer, limit: number): Promise<Buffer> {
  try {
    return await gunzipInThread(body, { maxOutputLength: limit })
  } catch (error) {
    throw decompressionError(error)
  }
}

function decompressionError(error: unknown): unknown {
  if (!(error instanceof Error)) return error
  if ('code' in error && error.code === 'ERR_BUFFER_TOO_LARGE') return new BodyTooLarge()
  return new InvalidGzip(error.message)
}
