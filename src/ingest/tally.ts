// Adds up the logs of one batch as a reader finds them, and turns their sequence numbers into runs.

import { InvalidBody } from '../http/errors.js'
import type { Batch } from './batch.js'
import { ALLOWED, DENIED, type Runs, SKIPPED } from './runs.js'
import { MAX_LOGS } from './schemas.js'

/** The end of its run, one more, is still a safe integer. */
const MAX_NUMBER = Number.MAX_SAFE_INTEGER - 1

/** Reused for every batch, because bodies are read synchronously: each reader starts with reset(). */
export class Tally {
  #length = 0
  #allowed = 0
  #denied = 0
  /** Of each log, in the order of the batch. NaN stands for no sequence number. */
  readonly #decisions = new Uint8Array(MAX_LOGS)
  readonly #numbers = new Float64Array(MAX_LOGS)

  reset(): void {
    this.#length = 0
    this.#allowed = 0
    this.#denied = 0
  }

  /** How many logs have been added: the index of the next one. */
  get length(): number {
    return this.#length
  }

  /** Adds a log: without a resource that is known, it is skipped. Throws InvalidBody if the batch has too many. */
  add(hasResource: boolean, isAllowed: boolean, sequenceNumber: number): void {
    const decision = hasResource ? (isAllowed ? ALLOWED : DENIED) : SKIPPED
    if (this.#length === MAX_LOGS) throw new InvalidBody(`/logs must have at most ${MAX_LOGS} items`)
    this.#decisions[this.#length] = decision
    this.#numbers[this.#length++] = sequenceNumber + 0 // makes -0 zero
    if (decision === ALLOWED) this.#allowed++
    else if (decision === DENIED) this.#denied++
  }

  /** The batch of all logs added. Throws InvalidBody if a session cannot have their sequence numbers. */
  batch(ids: Pick<Batch, 'workspaceId' | 'ownerId' | 'sessionId'>): Batch {
    return {
      workspaceId: ids.workspaceId,
      ownerId: ids.ownerId,
      sessionId: ids.sessionId,
      allowed: this.#allowed,
      denied: this.#denied,
      skipped: this.#length - this.#allowed - this.#denied,
      numbers: ids.sessionId === undefined ? undefined : this.#runs(),
    }
  }

  #runs(): Runs {
    if (!this.#checkNumbers()) this.#sort()
    const runs: number[] = []
    let end = Number.NaN
    let decision = SKIPPED
    for (let log = 0; log < this.#length; log++) {
      const number = this.#numbers[log] ?? Number.NaN
      if (number !== end || this.#decisions[log] !== decision) {
        if (log > 0) runs.push(end, decision)
        decision = this.#decisions[log] ?? SKIPPED
        runs.push(number)
      }
      end = number + 1
    }
    if (this.#length > 0) runs.push(end, decision)
    return runs
  }

  /** Returns whether they ascend; throws if one is missing, or out of range. */
  #checkNumbers(): boolean {
    let previous = -1
    let isAscending = true
    for (let log = 0; log < this.#length; log++) {
      const number = this.#numbers[log] ?? Number.NaN
      if (!(number >= 0 && number <= MAX_NUMBER)) refuseNumber(log, number)
      if (number <= previous) isAscending = false
      previous = number
    }
    return isAscending
  }

  /** Puts the logs into the order of their numbers; throws if a number is there twice. */
  #sort(): void {
    // Without a comparator, typed arrays are sorted natively.
    const sorted = this.#numbers.slice(0, this.#length).sort()
    for (let rank = 1; rank < sorted.length; rank++)
      if (sorted[rank] === sorted[rank - 1]) this.#refuseRepeated(sorted[rank] ?? Number.NaN)
    const denied = this.#numbersOf(DENIED).sort()
    const skipped = this.#numbersOf(SKIPPED).sort()
    let d = 0
    let s = 0
    for (const [rank, number] of sorted.entries()) {
      this.#numbers[rank] = number
      if (number === denied[d]) {
        this.#decisions[rank] = DENIED
        d++
      } else if (number === skipped[s]) {
        this.#decisions[rank] = SKIPPED
        s++
      } else this.#decisions[rank] = ALLOWED
    }
  }

  #refuseRepeated(number: number): never {
    const earlier = this.#numbers.indexOf(number)
    const later = this.#numbers.indexOf(number, earlier + 1)
    throw new InvalidBody(`/logs/${later}/sequence_number is the same as that of /logs/${earlier}`)
  }

  #numbersOf(decision: number): Float64Array {
    return this.#numbers.slice(0, this.#length).filter((_, log) => this.#decisions[log] === decision)
  }
}

function refuseNumber(log: number, number: number): never {
  const pointer = `/logs/${log}/sequence_number`
  if (Number.isNaN(number)) throw new InvalidBody(`${pointer} is required with a session_id`)
  throw new InvalidBody(`${pointer} must be between 0 and ${MAX_NUMBER} with a session_id`)
}
