// Bounds the part of the sessions' runs that one sender may fill until they are flushed, so that others find room.

import { SENDER_RUNS } from './sessions.js'

export class RunShares {
  /** By sender, of all flushes that are not frozen. */
  readonly #runs = new Map<string, number>()
  /** The same of each of these flushes, in the order of their numbers. */
  readonly #flushes: { flushSeq: number; runs: Map<string, number> }[] = []

  /** Whether the sender must wait for the next flush. */
  isUsedUp(sender: string): boolean {
    return (this.#runs.get(sender) ?? 0) >= SENDER_RUNS
  }

  /** Accounts the runs that a batch has added, to its sender and to the flush that will carry them. */
  add(sender: string, runs: number, flushSeq: number): void {
    if (runs === 0) return
    let last = this.#flushes.at(-1)
    if (last?.flushSeq !== flushSeq) {
      last = { flushSeq, runs: new Map() }
      this.#flushes.push(last)
    }
    for (const sums of [this.#runs, last.runs]) sums.set(sender, (sums.get(sender) ?? 0) + runs)
  }

  /** Flushes up to this number are frozen. */
  forget(flushSeq: number): void {
    while ((this.#flushes[0]?.flushSeq ?? Number.POSITIVE_INFINITY) <= flushSeq) {
      for (const [sender, runs] of this.#flushes.shift()?.runs ?? []) {
        const left = (this.#runs.get(sender) ?? 0) - runs
        if (left === 0) this.#runs.delete(sender)
        else this.#runs.set(sender, left)
      }
    }
  }
}
