// Lets expensive work take turns, so that neither other requests nor other senders wait for much of it.

/** How long work may take in a row, in milliseconds, before the event loop goes on. */
const SLICE_MS = 2

/**
 * Runs work between two rounds of the event loop: in each round as much as begins within SLICE_MS, and of each sender in
 * turn. So what one sender sends delays the requests of others by one slice, however many connections it has.
 */
export class Turns {
  /** By sender, in the order of their turns. */
  readonly #queues = new Map<string, (() => void)[]>()
  #isScheduled = false

  /** Runs `work`, which must not throw, later. */
  take(sender: string, work: () => void): void {
    const queue = this.#queues.get(sender)
    if (queue) queue.push(work)
    else this.#queues.set(sender, [work])
    this.#schedule()
  }

  #schedule(): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    setImmediate(() => {
      this.#isScheduled = false
      const end = performance.now() + SLICE_MS
      for (const [sender, queue] of this.#queues) {
        this.#queues.delete(sender)
        const work = queue.shift()
        if (queue.length > 0) this.#queues.set(sender, queue) // behind all others
        work?.()
        if (performance.now() >= end) break
      }
      if (this.#queues.size > 0) this.#schedule()
    })
  }
}
