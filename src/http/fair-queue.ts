// Work of several senders, of each in turn.

import type { Sender } from './body-budget.js'

/** Work in the order in which it arrived, but of each credential in turn, and of each of its addresses in turn. */
export class FairQueue<Work> {
  /** By credential and address, in the order of their turns. */
  readonly #queues = new Map<string, Map<string, Work[]>>()

  get isEmpty(): boolean {
    return this.#queues.size === 0
  }

  push({ credential, ip }: Sender, work: Work): void {
    const addresses = this.#queues.get(credential) ?? new Map<string, Work[]>()
    const queue = addresses.get(ip) ?? []
    queue.push(work)
    this.#queues.set(credential, addresses.set(ip, queue))
  }

  shift(): Work | undefined {
    const addresses = takeFirst(this.#queues)
    const queue = addresses && takeFirst(addresses.value)
    const work = queue?.value.shift()
    // Behind all others.
    if (queue && queue.value.length > 0) addresses.value.set(queue.key, queue.value)
    if (addresses && addresses.value.size > 0) this.#queues.set(addresses.key, addresses.value)
    return work
  }
}

function takeFirst<V>(map: Map<string, V>): { key: string; value: V } | undefined {
  for (const [key, value] of map) {
    map.delete(key)
    return { key, value }
  }
  return undefined
}
