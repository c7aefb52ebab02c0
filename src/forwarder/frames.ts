// Cuts the stream of a boundary's connection into frames: a tag byte, three length bytes (big-endian), a message.

export const HEADER_BYTES = 4
/** No boundary sends a longer message. */
export const MAX_MESSAGE_BYTES = 2 ** 15

/** What the message of a frame is: the batch itself, or an envelope around it. */
export const TAG = { batch: 1, envelope: 2 } as const

/** Bytes that begin no frame; nothing after them can be understood. */
export class FrameError extends Error {
  override name = 'FrameError'
}

export interface Frame {
  tag: number
  message: Buffer
  /** The frame as it arrived, header included. */
  bytes: Buffer
}

export class FrameReader {
  /** The beginning of a frame whose end has not arrived. */
  #rest: Buffer = Buffer.alloc(0)

  /** Bytes of a frame that has not ended. */
  get pending(): number {
    return this.#rest.length
  }

  /** Yields the frames that `chunk` completes; throws FrameError where no frame begins. */
  *read(chunk: Buffer): Generator<Frame> {
    let bytes = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk
    while (bytes.length > 0) {
      const [tag = 0] = bytes
      if (tag !== TAG.batch && tag !== TAG.envelope) throw new FrameError(`unknown tag ${tag}`)
      if (bytes.length < HEADER_BYTES) break
      const length = bytes.readUIntBE(1, 3)
      if (length > MAX_MESSAGE_BYTES) throw new FrameError(`a message of ${length} bytes`)
      const end = HEADER_BYTES + length
      if (bytes.length < end) break
      yield { tag, message: bytes.subarray(HEADER_BYTES, end), bytes: bytes.subarray(0, end) }
      bytes = bytes.subarray(end)
    }
    // A copy, so that a few bytes do not keep the whole chunk.
    this.#rest = Buffer.from(bytes)
  }
}
