// Reads the body of a request as bytes, into one buffer that grows with what has arrived, however small the chunks are.

import type { Readable } from 'node:stream'
import { BodyTooLarge, InvalidContentLength, TooManyChunks } from '../http/errors.js'

const NOTHING = Buffer.alloc(0)

/**
 * A chunk costs a microsecond, however short it is: as much as 250 bytes of JSON. Clients that write each token of a small
 * batch by itself stay below this.
 */
const MAX_SMALL_CHUNKS = 4_096
const MIN_CHUNK_BYTES = 16

interface Options {
  /** The request's Content-Length. */
  declaredLength: string | undefined
  /** In bytes. */
  limit: number
  /** Called with the bytes that the body will hold, before it holds more. It may give the body up. */
  onHold?: (bytes: number) => void
}

/**
 * Calls `done` once: with the whole body, or with why there is none. Refuses what Fastify's own parsers refuse. Returns a
 * function that gives the body up. A body that arrives in one piece holds nothing while it is read.
 */
export function readBody(
  payload: Readable,
  { declaredLength, limit, onHold = () => {} }: Options,
  done: (error: Error | null, body?: Buffer) => void,
): (error: Error) => void {
  const declared = declaredLength === undefined ? undefined : Number(declaredLength)
  let bytes: Buffer = NOTHING
  let length = 0
  let chunks = 0
  let isOver = false

  const onData = (chunk: Buffer) => {
    if (isOver) return
    const end = length + chunk.length
    if (end > limit) return finish(new BodyTooLarge())
    if (++chunks > MAX_SMALL_CHUNKS + end / MIN_CHUNK_BYTES) return finish(new TooManyChunks())
    if (end === declared && length === 0)
      bytes = chunk // most bodies arrive in one piece, and need no copy
    else {
      if (end > bytes.length) {
        const size = sizeFor(end, declared)
        onHold(size)
        if (isOver) return
        bytes = grow(bytes.subarray(0, length), size)
      }
      bytes.set(chunk, length)
    }
    length = end
  }
  const onEnd = () =>
    finish(declared !== undefined && declared !== length ? new InvalidContentLength() : null)
  const onError = (error: Error & { statusCode?: number }) => {
    error.statusCode ??= 400
    finish(error)
  }
  // The listeners stay, because it costs less to ignore events than to remove listeners. They must not keep the body.
  const finish = (error: Error | null) => {
    if (isOver) return
    isOver = true
    const body = bytes.length === length ? bytes : bytes.subarray(0, length)
    bytes = NOTHING
    if (error) done(error)
    else done(null, body)
  }

  if (declared !== undefined && declared > limit) finish(new BodyTooLarge())
  else payload.on('data', onData).on('end', onEnd).on('error', onError)
  return finish
}

/** Room for twice what has arrived, but for no more than was declared. */
function sizeFor(needed: number, declared = 0): number {
  return declared < needed ? 2 * needed : Math.min(2 * needed, declared)
}

function grow(bytes: Buffer, size: number): Buffer {
  const grown = Buffer.allocUnsafe(size)
  grown.set(bytes)
  return grown
}
