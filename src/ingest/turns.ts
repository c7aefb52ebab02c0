// Lets expensive work take turns, so that neither other requests nor other senders wait for much of it.

import type { Sender } from '../http/body-budget.js'
import { FairQueue } from '../http/fair-queue.js'

/** How long work may take in a row, in milliseconds, before the event loop goes on. */
const SLICE_MS = 2

/**
 * Runs work between two rounds of the event loop: in each round as much as begins within SLICE_MS, and of each sender in
 * turn. So what one sender sends delays the requests of others by one slice, however many connections it has.
 */
export class Turns {
  readonly #queue = new FairQueue<() => void>()
  #isScheduled = false

  /** Runs `work`, which must not throw, later. */
  take(sender: Sender, work: () => void): void {
    this.#queue.push(sender, work)
    this.#schedule()
  }

  #schedule(): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    setImmediate(() => {
      this.#isScheduled = false
      const end = performance.now() + SLICE_MS
      do this.#queue.shift()?.()
      while (!this.#queue.isEmpty && performance.now() < end)
      if (!this.#queue.isEmpty) this.#schedule()
    })
  }
}

/** Runs work of other threads, one at a time, so that no sender takes them all, nor much memory for the results. */
export class Line {
  readonly #queue = new FairQueue<() => Promise<void>>()
  #isRunning = false

  /** Runs `work`, whose promise must not reject, later. */
  take(sender: Sender, work: () => Promise<void>): void {
    this.#queue.push(sender, work)
    if (!this.#isRunning) void this.#run()
  }

  async #run(): Promise<void> {
    this.#isRunning = true
    for (let work = this.#queue.shift(); work; work = this.#queue.shift()) await work()
    this.#isRunning = false
  }
}
