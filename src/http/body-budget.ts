// Bounds the memory of all request bodies in progress by what has arrived of them, and shares it between their senders.

/** What a body in progress costs besides its bytes: the request, the response and their connection, on the heap. */
const OVERHEAD_BYTES = 16_384

/** A body in progress. */
interface Body {
  bytes: number
  end(): void
}

/** All bodies in progress of one sender: a credential at an address. */
interface Sender {
  bytes: number
  bodies: Set<Body>
}

/** By which a body's reader accounts for it. */
export interface Held {
  /** Reports how many bytes the body holds now. To make room for them, bodies are ended: possibly this one. */
  hold(bytes: number): void
  /** Reports that the body holds nothing any more. */
  release(): void
}

/**
 * When the bodies in progress exceed the limit, the largest body of the sender that holds most is ended, until they fit.
 * So each sender finds room for as much as any other one holds, and a small body finds room even if an attacker has its
 * sender's credential and address.
 */
export class BodyBudget {
  readonly #limit: number
  readonly #senders = new Map<string, Sender>()
  #bytes = 0

  /** `limit` is in bytes, for all bodies together. */
  constructor(limit: number) {
    this.#limit = limit
  }

  /** What all bodies in progress hold. */
  get bytes(): number {
    return this.#bytes
  }

  /** Begins to account for a body of the sender of that name. `onEnd` is called if it must make room; it must then reject the request. */
  open(name: string, onEnd: () => void): Held {
    const sender = this.#senders.get(name) ?? { bytes: 0, bodies: new Set<Body>() }
    this.#senders.set(name, sender)
    const set = (bytes: number) => {
      sender.bytes += bytes - body.bytes
      this.#bytes += bytes - body.bytes
      body.bytes = bytes
    }
    const release = () => {
      if (!sender.bodies.delete(body)) return
      set(0)
      if (sender.bodies.size === 0) this.#senders.delete(name)
    }
    const body: Body = {
      bytes: 0,
      end: () => {
        release()
        onEnd()
      },
    }
    sender.bodies.add(body)
    return {
      hold: (bytes) => {
        if (!sender.bodies.has(body)) return
        set(bytes + OVERHEAD_BYTES)
        while (this.#bytes > this.#limit) largest(largest(this.#senders.values()).bodies).end()
      },
      release,
    }
  }

  /** Ends all bodies of the sender that holds most. */
  shed(): void {
    if (this.#senders.size === 0) return
    for (const body of [...largest(this.#senders.values()).bodies]) body.end()
  }
}

function largest<T extends { bytes: number }>(all: Iterable<T>): T {
  let found: T | undefined
  for (const one of all) if (found === undefined || one.bytes > found.bytes) found = one
  if (found === undefined) throw new Error('nothing holds any bytes')
  return found
}
