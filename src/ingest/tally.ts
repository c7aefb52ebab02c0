// Adds up the logs of one batch as a reader finds them, and turns their sequence numbers into runs.

import { InvalidBody } from '../http/errors.js'
import type { Batch } from './batch.js'
import { MAX_LOGS } from './schemas.js'

const ALLOWED = 0
const DENIED = 1
const SKIPPED = 2
type Decision = typeof ALLOWED | typeof DENIED | typeof SKIPPED

/** The end of its run, one more, is still a safe integer. */
const MAX_NUMBER = Number.MAX_SAFE_INTEGER - 1

/** Reused for every batch, because bodies are read synchronously: each reader starts with reset(). */
export class Tally {
  #length = 0
  readonly #counts = { [ALLOWED]: 0, [DENIED]: 0, [SKIPPED]: 0 }
  /** Of each log, in the order of the batch. NaN stands for no sequence number. */
  readonly #decisions = new Uint8Array(MAX_LOGS)
  readonly #numbers = new Float64Array(MAX_LOGS)

  reset(): void {
    this.#length = 0
    this.#counts[ALLOWED] = this.#counts[DENIED] = this.#counts[SKIPPED] = 0
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
    this.#counts[decision]++
  }

  /** The batch of all logs added. Throws InvalidBody if a session cannot have their sequence numbers. */
  batch(ids: Pick<Batch, 'workspaceId' | 'ownerId' | 'sessionId'>): Batch {
    return {
      workspaceId: ids.workspaceId,
      ownerId: ids.ownerId,
      sessionId: ids.sessionId,
      allowed: this.#counts[ALLOWED],
      denied: this.#counts[DENIED],
      skipped: this.#counts[SKIPPED],
      numbers: ids.sessionId === undefined ? undefined : this.#runsByDecision(),
    }
  }

  #runsByDecision(): NonNullable<Batch['numbers']> {
    const runs: [number[], number[], number[]] = [[], [], []]
    if (this.#checkNumbers()) {
      for (let log = 0; log < this.#length; log++)
        append(runs[this.#decisions[log] as Decision], this.#numbers[log] ?? Number.NaN)
    } else
      for (const decision of [ALLOWED, DENIED, SKIPPED] as const)
        for (const number of this.#numbersOf(decision).sort()) append(runs[decision], number)
    return { allowed: runs[ALLOWED], denied: runs[DENIED], skipped: runs[SKIPPED] }
  }

  /** Returns whether they ascend; throws if one is missing, out of range, or there twice. */
  #checkNumbers(): boolean {
    let previous = -1
    let isAscending = true
    for (let log = 0; log < this.#length; log++) {
      const number = this.#numbers[log] ?? Number.NaN
      if (!(number >= 0 && number <= MAX_NUMBER)) refuseNumber(log, number)
      if (number <= previous) isAscending = false
      previous = number
    }
    if (!isAscending) this.#checkUnique()
    return isAscending
  }

  #checkUnique(): void {
    // Without a comparator, typed arrays are sorted natively.
    const sorted = this.#numbers.slice(0, this.#length).sort()
    for (let rank = 1; rank < sorted.length; rank++)
      if (sorted[rank] === sorted[rank - 1]) this.#refuseRepeated(sorted[rank] ?? Number.NaN)
  }

  #refuseRepeated(number: number): never {
    const earlier = this.#numbers.indexOf(number)
    const later = this.#numbers.indexOf(number, earlier + 1)
    throw new InvalidBody(`/logs/${later}/sequence_number is the same as that of /logs/${earlier}`)
  }

  #numbersOf(decision: Decision): Float64Array {
    const numbers = new Float64Array(this.#counts[decision])
    let length = 0
    for (let log = 0; log < this.#length; log++)
      if (this.#decisions[log] === decision) numbers[length++] = this.#numbers[log] ?? Number.NaN
    return numbers
  }
}

function refuseNumber(log: number, number: number): never {
  const pointer = `/logs/${log}/sequence_number`
  if (Number.isNaN(number)) throw new InvalidBody(`${pointer} is required with a session_id`)
  throw new InvalidBody(`${pointer} must be between 0 and ${MAX_NUMBER} with a session_id`)
}

/** Adds a number that is higher than all in `runs`. */
function append(runs: number[], number: number): void {
  const last = runs.length - 1
  if (last > 0 && runs[last] === number) runs[last] = number + 1
  else runs.push(number, number + 1)
}
