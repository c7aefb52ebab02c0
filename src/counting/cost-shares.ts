// Bounds the part of the sessions' runs that one sender may fill between two flushes, so that others find room.

import { SENDER_RUNS } from './sessions.js'

export class RunShares {
  readonly #runs = new Map<string, number>()
  #total = 0

  /** Whether the sender must wait for the next flush. */
  isUsedUp(sender: string): boolean {
    return (this.#runs.get(sender) ?? 0) >= SENDER_RUNS
  }

  /** Accounts a batch to its sender. `total` is the number of runs since the last flush, with this batch. */
  add(sender: string, total: number): void {
    if (total === this.#total) return
    this.#runs.set(sender, (this.#runs.get(sender) ?? 0) + total - this.#total)
    this.#total = total
  }

  /** A flush has been frozen. */
  forget(): void {
    this.#runs.clear()
    this.#total = 0
  }
}
