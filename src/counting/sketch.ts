// The sketch: a fixed-size summary of a set of ids, from which its distinct count is estimated. Sketches merge by OR.

import { hmac } from './hmac.js'

/**
 * Probabilistic counting with stochastic averaging (PCSA; Flajolet and Martin, "Probabilistic counting algorithms
 * for data base applications", 1985): an id's hash chooses one of BUCKETS at random and a rank j with probability
 * 2^-(j+1), and sets that bit. The same id sets the same bit again, so the union of two sets is the OR of their
 * sketches. Bits are stored rank by rank: a sketch of few ids ends in zeros, and the bits of one rank are a substring.
 */
export const BUCKETS = 8_192
export const RANKS = 24
export const SKETCH_BITS = BUCKETS * RANKS

/** The index of an id's bit: rank * BUCKETS + bucket. */
export type Position = number
export type SketchHash = (id: string) => Position

/** The estimate of a full sketch. */
const MAX_ESTIMATE = Number.MAX_SAFE_INTEGER
const LAST_RANK = RANKS - 1
/** By rank, the probability that an id sets a given bit. The last rank takes the tail. */
const CHANCES = Array.from({ length: RANKS }, (_, rank) => 2 ** -Math.min(rank + 1, LAST_RANK) / BUCKETS)

/**
 * The hash under a deployment's key: HMAC-SHA-256. 13 of its bits choose the bucket; the number of leading zeros in
 * 32 others is the rank. Without the key, a sketch does not reveal whether it contains a known id.
 */
export function sketchHash(key: Uint8Array): SketchHash {
  const digestOf = hmac(key, 'binary')
  return (id) => {
    // A string, because creating a Buffer takes as long as the hash itself.
    const digest = digestOf(id)
    const byte = (index: number) => digest.charCodeAt(index)
    const bucket = ((byte(6) << 8) | byte(7)) & (BUCKETS - 1)
    const rank = Math.clz32((byte(0) << 24) | (byte(1) << 16) | (byte(2) << 8) | byte(3))
    return Math.min(rank, LAST_RANK) * BUCKETS + bucket
  }
}

export class Sketch {
  readonly #bytes = new Uint8Array(SKETCH_BITS / 8)
  /** All bytes from here on are zero. */
  #end = 0

  /** Sets the bit. Returns false if it was already set. */
  add(position: Position): boolean {
    const index = position >> 3
    const mask = 0x80 >> (position & 7)
    const before = this.#bytes[index] ?? 0
    this.#bytes[index] = before | mask
    if (index >= this.#end) this.#end = index + 1
    return (before & mask) === 0
  }

  has(position: Position): boolean {
    return ((this.#bytes[position >> 3] ?? 0) & (0x80 >> (position & 7))) !== 0
  }

  /** Turns this into the sketch of the union of both sets. */
  merge(other: Sketch): void {
    for (let index = 0; index < other.#end; index++)
      this.#bytes[index] = (this.#bytes[index] ?? 0) | (other.#bytes[index] ?? 0)
    this.#end = Math.max(this.#end, other.#end)
  }

  /** For each rank, the number of buckets whose bit is set. */
  columnSums(): number[] {
    const sums: number[] = []
    const perRank = BUCKETS / 8
    for (let rank = 0; rank < RANKS; rank++) {
      let sum = 0
      const end = Math.min((rank + 1) * perRank, this.#end)
      for (let index = rank * perRank; index < end; index++) {
        let byte = this.#bytes[index] ?? 0
        for (; byte !== 0; byte &= byte - 1) sum++
      }
      sums.push(sum)
    }
    return sums
  }

  estimate(): number {
    return estimate(this.columnSums())
  }

  /** A PostgreSQL bit string without trailing zeros, which a cast to bit(n) restores. */
  toBitString(): string {
    return `x${Buffer.from(this.#bytes.buffer, 0, this.#end).toString('hex')}`
  }
}

/**
 * The maximum-likelihood estimate of the distinct count, from the column sums of a (merged) sketch.
 * Of n ids, a bit of rank j stays unset with probability exp(-n * q), q = 2^-(j+1) / BUCKETS (the last rank takes
 * the tail); the likelihood of all bits is greatest where its derivative is zero. Standard error: 0.7 % from
 * 1,000 ids to billions; up to 100 ids it is usually off by at most one.
 */
export function estimate(columnSums: readonly number[]): number {
  let bits = 0
  let unset = 0
  let halfSet = 0
  for (const [rank, q] of CHANCES.entries()) {
    const set = columnSums[rank] ?? 0
    bits += set
    unset += (BUCKETS - set) * q
    halfSet += (set * q) / 2
  }
  if (bits === 0) return 0
  if (unset === 0) return MAX_ESTIMATE
  // Newton's method on the derivative of the log-likelihood, which falls as n grows, ever more slowly. So each step from
  // below stays below. It begins below because 1 / (exp(x) - 1) > 1 / x - 1 / 2.
  let n = bits / (unset + halfSet)
  for (;;) {
    let slope = -unset
    let fall = 0
    for (let rank = 0; rank < RANKS; rank++) {
      const q = CHANCES[rank] ?? 0
      const odds = 1 / Math.expm1(n * q)
      const term = (columnSums[rank] ?? 0) * q * odds
      slope += term
      fall += term * q * (1 + odds)
    }
    const step = slope / fall
    n += step
    if (step < 0.01 || step < n * 1e-9) return Math.round(n)
  }
}

/**
 * The standard error of the difference of two estimates, of a set of `before` ids and of its union with `added` others.
 * The errors of the two are not independent: what one set bit adds is. The variance of an estimate is the inverse of its
 * Fisher information, and that of the difference the difference of the variances. Of few ids none may set a bit, which
 * does not make the estimate exact: the error is at least that of as many ids as set one bit on average. A full sketch
 * tells nothing: the error is then the number itself.
 */
export function differenceError(before: number, added: number): number {
  const perBit = variance(before + 1) - variance(before)
  const error = Math.sqrt(Math.max(0, variance(before + Math.max(added, perBit)) - variance(before)))
  return Number.isFinite(error) ? error : added
}

/** The variance of the estimate of `n` ids. */
function variance(n: number): number {
  if (n === 0) return 0
  let information = 0
  for (const q of CHANCES) information += (BUCKETS * q ** 2) / Math.expm1(n * q)
  return 1 / information - n
}
