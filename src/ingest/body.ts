// Reads the body of a request as bytes, into one buffer that grows with what has arrived, however small the chunks are.

import type { Readable } from 'node:stream'
import { BodyTooLarge, InvalidContentLength } from '../http/errors.js'

/** A decompressed stream knows how many bytes were sent. */
export type Payload = Readable & { receivedEncodedLength?: number }

const NOTHING = Buffer.alloc(0)

interface Options {
  /** The request's Content-Length. */
  declaredLength: string | undefined
  /** In bytes, for the body as sent and as decompressed. */
  limit: number
  /** Called with the bytes that the body holds whenever they change; with 0 when it has been read or given up. */
  onHold?: (bytes: number) => void
}

/** Calls `done` once: with the whole body, or with why there is none. Refuses what Fastify's own parsers refuse. */
export function readBody(
  payload: Payload,
  { declaredLength, limit, onHold = () => {} }: Options,
  done: (error: Error | null, body?: Buffer) => void,
): void {
  const declared = declaredLength === undefined ? undefined : Number(declaredLength)
  let bytes: Buffer = NOTHING
  let length = 0
  let isOver = false

  const onData = (chunk: Buffer) => {
    if (isOver) return
    const end = length + chunk.length
    if (end > limit || (payload.receivedEncodedLength ?? 0) > limit) return finish(new BodyTooLarge())
    if (end === declared && length === 0) {
      bytes = chunk // most bodies arrive in one piece, and need no copy
      onHold(end)
    } else {
      if (end > bytes.length) {
        bytes = grow(bytes.subarray(0, length), end, declared)
        onHold(bytes.length)
      }
      bytes.set(chunk, length)
    }
    length = end
  }
  const onEnd = () => {
    const sent = payload.receivedEncodedLength ?? length
    finish(declared !== undefined && declared !== sent ? new InvalidContentLength() : null)
  }
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
    onHold(0)
    if (error) done(error)
    else done(null, body)
  }

  if (declared !== undefined && declared > limit) done(new BodyTooLarge())
  else payload.on('data', onData).on('end', onEnd).on('error', onError)
}

/** Makes room for twice what has arrived, but for no more than was declared. */
function grow(bytes: Buffer, needed: number, declared = 0): Buffer {
  const grown = Buffer.allocUnsafe(declared < needed ? 2 * needed : Math.min(2 * needed, declared))
  grown.set(bytes)
  return grown
}
