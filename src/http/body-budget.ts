// Bounds the memory of all request bodies in progress by what has arrived of them, and shares it between their senders.

/** What a body in progress costs besides its bytes: the request, the response and their connection, on the heap. */
const OVERHEAD_BYTES = 16_384

/** A body in progress. */
interface Body {
  bytes: number
  end(): void
}

/** Agents often share a credential, and behind a proxy an address; one of them can have many addresses. */
export interface Sender {
  readonly credential: string
  readonly ip: string
}

/** All bodies in progress from one address with one credential. */
interface Address {
  bytes: number
  bodies: Set<Body>
}

interface Credential {
  bytes: number
  addresses: Map<string, Address>
}

/** By which a body's reader accounts for it. */
export interface Held {
  /** Reports how many bytes the body holds now. To make room for them, bodies are ended: possibly this one. */
  hold(bytes: number): void
  /** Reports that the body holds nothing any more. */
  release(): void
}

/**
 * When the bodies in progress exceed the limit, of the credential that holds most, and of its address that holds most, the
 * largest body is ended, until they fit. So each credential finds room for as much as any other one holds, from however
 * many addresses; and a small body finds room even if an attacker has its sender's credential and address.
 */
export class BodyBudget {
  readonly #limit: number
  readonly #credentials = new Map<string, Credential>()
  #bytes = 0

  /** `limit` is in bytes, for all bodies together. */
  constructor(limit: number) {
    this.#limit = limit
  }

  /** What all bodies in progress hold. */
  get bytes(): number {
    return this.#bytes
  }

  /** Begins to account for a body. `onEnd` is called if it must make room; it must then reject the request. */
  open({ credential: name, ip }: Sender, onEnd: () => void): Held {
    const credential = this.#credentials.get(name) ?? { bytes: 0, addresses: new Map<string, Address>() }
    const address = credential.addresses.get(ip) ?? { bytes: 0, bodies: new Set<Body>() }
    this.#credentials.set(name, credential)
    credential.addresses.set(ip, address)
    const set = (bytes: number) => {
      const added = bytes - body.bytes
      this.#bytes += added
      for (const holder of [credential, address, body]) holder.bytes += added
    }
    const release = () => {
      if (!address.bodies.delete(body)) return
      set(0)
      if (address.bodies.size === 0) credential.addresses.delete(ip)
      if (credential.addresses.size === 0) this.#credentials.delete(name)
    }
    const body: Body = {
      bytes: 0,
      end: () => {
        release()
        onEnd()
      },
    }
    address.bodies.add(body)
    return {
      hold: (bytes) => {
        if (!address.bodies.has(body)) return
        set(bytes + OVERHEAD_BYTES)
        while (this.#bytes > this.#limit) largest(this.#largestAddress().bodies).end()
      },
      release,
    }
  }

  /** Ends all bodies of the sender that holds most. */
  shed(): void {
    if (this.#credentials.size === 0) return
    for (const body of [...this.#largestAddress().bodies]) body.end()
  }

  #largestAddress(): Address {
    return largest(largest(this.#credentials.values()).addresses.values())
  }
}

function largest<T extends { bytes: number }>(all: Iterable<T>): T {
  let found: T | undefined
  for (const one of all) if (found === undefined || one.bytes > found.bytes) found = one
  if (found === undefined) throw new Error('nothing holds any bytes')
  return found
}
