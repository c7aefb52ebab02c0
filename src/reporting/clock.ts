// The database's clock, as far as this replica knows it between two heartbeats.

/** By how much two clocks can move apart, as a part of the time that passes. */
const DRIFT = 0.0002

interface Sample {
  /** The database's clock minus the monotonic one, in milliseconds. */
  offset: number
  /** The offset is known to within this much either way. */
  error: number
  takenAt: number
}

/**
 * Follows the database's clock by this process's monotonic one. The database read its clock between the moment at which
 * a heartbeat was sent and that at which its response arrived: the offset is known to within half of the time between
 * them. The most precise sample is kept until its error, which grows with its age, exceeds that of a new one, or until a
 * new one contradicts it, because the database's clock has been set.
 */
export class DatabaseClock {
  #sample: Sample | undefined
  readonly #monotonic: () => number

  constructor(monotonic: () => number = () => performance.now()) {
    this.#monotonic = monotonic
  }

  /** Takes a sample: `sentAt` is the monotonic clock before the heartbeat, `now` the database's clock in between. */
  observe(sentAt: number, now: number): void {
    const takenAt = this.#monotonic()
    const error = (takenAt - sentAt) / 2
    const sample = { offset: now - sentAt - error, error, takenAt }
    const known = this.#sample
    const knownError = known ? known.error + (takenAt - known.takenAt) * DRIFT : Number.POSITIVE_INFINITY
    const contradicts = known && Math.abs(sample.offset - known.offset) > error + knownError
    if (error <= knownError || contradicts) this.#sample = sample
  }

  /** Whether there has been a heartbeat. */
  get isKnown(): boolean {
    return this.#sample !== undefined
  }

  /** By how much it may differ from the database's when the last sample was taken; infinite before. */
  get error(): number {
    return this.#sample?.error ?? Number.POSITIVE_INFINITY
  }

  /** The database's clock, in milliseconds since 1970. Throws before the first heartbeat. */
  now(): number {
    if (!this.#sample) throw new Error("the database's clock is not known before the first heartbeat")
    return this.#monotonic() + this.#sample.offset
  }
}

/** The last multiple of `intervalMs` since 1970 at or before `now`. */
export function boundaryBefore(now: number, intervalMs: number): number {
  return Math.floor(now / intervalMs) * intervalMs
}
