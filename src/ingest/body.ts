// Reads the body of a request as bytes, whose memory is proportional to what has arrived, however small the chunks are.

import type { Readable } from 'node:stream'
import { BodyTooLarge, InvalidContentLength } from '../http/errors.js'

/**
 * A chunk costs a microsecond, however short it is: as much as 250 bytes of JSON. Clients that write each token of a small
 * batch by itself stay below this.
 */
const MANY_CHUNKS = 4_096
const SMALL_CHUNK_BYTES = 16

interface Options {
  /** The request's Content-Length. */
  declaredLength: string | undefined
  /** In bytes. */
  limit: number
  /** Called with the bytes that the body will hold, before it holds more. It may give the body up. */
  onHold?: (bytes: number) => void
  /** Called each time when many small chunks have arrived. */
  onManyChunks?: () => void
}

/**
 * Calls `done` once: with the whole body, or with why there is none. Refuses what Fastify's own parsers refuse. Returns a
 * function that gives the body up. A body that arrives in one piece holds nothing while it is read.
 */
export function readBody(
  payload: Readable,
  { declaredLength, limit, onHold = () => {}, onManyChunks = () => {} }: Options,
  done: (error: Error | null, body?: Body) => void,
): (error: Error) => void {
  const declared = declaredLength === undefined ? undefined : Number(declaredLength)
  let arrived: Body | undefined = new Body(declared ?? 0)
  let chunks = 0
  let expectedChunks = MANY_CHUNKS

  const onData = (chunk: Buffer) => {
    if (arrived === undefined) return
    const end = arrived.length + chunk.length
    if (end > limit) return finish(new BodyTooLarge())
    if (++chunks > expectedChunks + end / SMALL_CHUNK_BYTES) {
      expectedChunks += MANY_CHUNKS
      onManyChunks()
    }
    const isWhole = chunk.length === declared
    const size = arrived.sizeWith(chunk)
    if (size > arrived.size && !isWhole) onHold(size)
    arrived?.add(chunk)
  }
  const onEnd = () =>
    finish(declared !== undefined && declared !== arrived?.length ? new InvalidContentLength() : null)
  const onError = (error: Error & { statusCode?: number }) => {
    error.statusCode ??= 400
    finish(error)
  }
  // The listeners stay, because it costs less to ignore events than to remove listeners. They must not keep the body.
  const finish = (error: Error | null) => {
    if (arrived === undefined) return
    const body = arrived
    arrived = undefined
    if (error) done(error)
    else done(null, body)
  }

  if (declared !== undefined && declared > limit) finish(new BodyTooLarge())
  else payload.on('data', onData).on('end', onEnd).on('error', onError)
  return finish
}

/** Chunks from this length on are kept as they are; smaller ones are copied together. */
const LARGE_CHUNK_BYTES = 16_384
const MAX_ROOM_BYTES = 65_536

/**
 * Bodies of several pieces are joined here, one at a time: to allocate memory for each would take longer than to parse
 * it, because it is outside of the heap, and all of it is garbage at once.
 */
let joined = Buffer.alloc(0)

/** A body, or what has arrived of it. */
export class Body {
  /** In bytes. */
  length = 0
  /** The memory that it takes, in bytes. */
  size = 0
  /** In order. All are full but the last, if `#room` is left in it. */
  readonly #pieces: Buffer[] = []
  #room = 0
  readonly #expected: number

  /** `expected` is the length that it should have, and 0 if that is not known. */
  constructor(expected: number) {
    this.#expected = expected
  }

  /** The memory that it will take with this chunk. */
  sizeWith(chunk: Buffer): number {
    const rest = chunk.length - this.#room
    return rest > 0 ? this.size + this.#pieceSize(rest) : this.size
  }

  add(chunk: Buffer): void {
    const fitting = Math.min(chunk.length, this.#room)
    if (fitting < chunk.length) {
      const rest = fitting === 0 ? chunk : chunk.subarray(fitting)
      const size = this.#pieceSize(rest.length)
      if (fitting > 0) this.#fill(chunk.subarray(0, fitting))
      this.size += size
      if (size === rest.length) {
        this.#pieces.push(rest)
        this.length += size
      } else {
        this.#pieces.push(Buffer.allocUnsafeSlow(size))
        this.#room = size
        this.#fill(rest)
      }
    } else this.#fill(chunk)
  }

  /** Of the piece that begins with `rest` bytes: just these if they are many or all that is missing. */
  #pieceSize(rest: number): number {
    const end = this.length + Math.min(this.#room, rest)
    const missing = this.#expected - this.length - this.#room
    if (rest >= LARGE_CHUNK_BYTES || rest === missing) return rest
    const room = Math.max(2 * rest, Math.min(end, MAX_ROOM_BYTES))
    return missing < rest ? room : Math.min(room, missing)
  }

  #fill(bytes: Buffer): void {
    const last = this.#pieces[this.#pieces.length - 1]
    last?.set(bytes, last.length - this.#room)
    this.#room -= bytes.length
    this.length += bytes.length
  }

  /** All of it in one piece, which is valid until another body is asked for its bytes. */
  bytes(): Buffer {
    const [first] = this.#pieces
    if (first !== undefined && this.#pieces.length === 1)
      return this.#room === 0 ? first : first.subarray(0, this.length)
    if (joined.length < this.length) joined = Buffer.allocUnsafeSlow(Math.max(this.length, 2 * joined.length))
    let end = 0
    for (const piece of this.#pieces) {
      joined.set(end + piece.length > this.length ? piece.subarray(0, this.length - end) : piece, end)
      end += piece.length
    }
    return joined.subarray(0, this.length)
  }
}
