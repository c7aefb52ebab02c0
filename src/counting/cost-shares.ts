// Bounds the part of what sessions may cost a flush that one sender may fill, so that others find room.

import { SENDER_RUNS } from './sessions.js'

export class CostShares {
  readonly #costs = new Map<string, number>()
  #total = 0

  /** Whether the sender must wait for the next flush. */
  isUsedUp(sender: string): boolean {
    return (this.#costs.get(sender) ?? 0) >= SENDER_RUNS
  }

  /** Accounts a batch to its sender. `total` is the cost of all sessions since the last flush, with this batch, in runs. */
  add(sender: string, total: number): void {
    if (total === this.#total) return
    this.#costs.set(sender, (this.#costs.get(sender) ?? 0) + total - this.#total)
    this.#total = total
  }

  /** A flush has been frozen. */
  forget(): void {
    this.#costs.clear()
    this.#total = 0
  }
}
