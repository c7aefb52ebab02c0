// Bounds the part of the sessions' runs that one sender may fill between two flushes, so that others find room.

import { SENDER_RUNS } from './sessions.js'

export class RunShares {
  readonly #runs = new Map<string, number>()
  #total = 0

  /** Whether the sender must wait for the next flush. */
  isUsedUp(sender: string): boolean {
    return (this.#runs.get(sender) ?? 0) >= SENDER_RUNS
  }

  /** Adds what a batch of the sender has brought the runs since the last flush to. */
  add(sender: string, total: number): void {
    this.#runs.set(sender, (this.#runs.get(sender) ?? 0) + total - this.#total)
    this.#total = total
  }

  /** A flush has been frozen. */
  forget(): void {
    this.#runs.clear()
    this.#total = 0
  }
}
