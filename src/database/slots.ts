// Decides which work runs on which of a replica's connections, and which work waits: reads never delay flushes.

/**
 * What work is for, in order of priority: a flush; what the replica does by itself, such as scheduled snapshots and
 * deliveries; what a client waits for.
 */
export type Lane = 'flush' | 'background' | 'request'

const LANES: readonly Lane[] = ['flush', 'background', 'request']

/** With more than that before them, clients would rather be told at once. */
export const MAX_WAITING_REQUESTS = 16

/** A client's work did not begin: too much of its kind was before it. */
export class QueueFullError extends Error {
  override name = 'QueueFullError'
}

interface Waiter {
  begin: (slot: number) => void
}

/**
 * Slots 0 to count - 1, each for one piece of work at a time. Slot 0 is for flushes alone, and the last one is not for
 * requests. Where there are too few for that, lanes share a slot, and their priority decides which work is next.
 */
export class Slots {
  readonly #isFree: boolean[]
  /** The slots that a lane may use: from the first number to before the second. */
  readonly #ranges: Record<Lane, [from: number, to: number]>
  readonly #waiting: Record<Lane, Waiter[]> = { flush: [], background: [], request: [] }
  readonly #requestWaitMs: number

  /** A request waits for at most `requestWaitMs`, other work for as long as it takes. */
  constructor(count: number, requestWaitMs: number) {
    this.#isFree = Array.from({ length: count }, () => true)
    const second = Math.min(1, count - 1)
    this.#ranges = {
      flush: [0, 1],
      background: [second, count],
      request: [second, Math.max(second + 1, count - 1)],
    }
    this.#requestWaitMs = requestWaitMs
  }

  /** Resolves with a slot, which must be given back; rejects a request with QueueFullError. */
  async take(lane: Lane): Promise<number> {
    const free = this.#isFree.findIndex((isFree, slot) => isFree && this.#admits(lane, slot))
    if (free < 0) return this.#wait(lane)
    this.#isFree[free] = false
    return free
  }

  /** Hands the slot to the work that is next. */
  give(slot: number): void {
    const next = LANES.find((lane) => this.#waiting[lane].length > 0 && this.#admits(lane, slot))
    if (next === undefined) this.#isFree[slot] = true
    else this.#waiting[next].shift()?.begin(slot)
  }

  #admits(lane: Lane, slot: number): boolean {
    const [from, to] = this.#ranges[lane]
    return slot >= from && slot < to
  }

  #wait(lane: Lane): Promise<number> {
    const waiting = this.#waiting[lane]
    if (lane === 'request' && waiting.length >= MAX_WAITING_REQUESTS)
      throw new QueueFullError(`${waiting.length} requests wait already`)
    return new Promise((resolve, reject) => {
      if (lane !== 'request') return void waiting.push({ begin: resolve })
      const waiter = {
        begin: (slot: number) => {
          clearTimeout(timer)
          resolve(slot)
        },
      }
      const timer = setTimeout(() => {
        waiting.splice(waiting.indexOf(waiter), 1)
        reject(new QueueFullError(`did not begin within ${this.#requestWaitMs} ms`))
      }, this.#requestWaitMs)
      waiting.push(waiter)
    })
  }
}
