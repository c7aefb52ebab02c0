// Finds the largest of many items whose sizes change all the time: a binary heap in which each item knows its place.

export interface Sized {
  readonly bytes: number
  /** Where it is in the heap; -1 if it is not. Only the heap changes this. */
  place: number
}

export class Largest<T extends Sized> {
  /** Each is at least as large as the two at twice its place, plus one and plus two. */
  readonly #items: T[] = []

  get first(): T | undefined {
    return this.#items[0]
  }

  /** Adds an item, or finds the place of one whose size has changed. */
  put(item: T): void {
    if (item.place < 0) item.place = this.#items.push(item) - 1
    this.#sink(item, this.#rise(item, item.place))
  }

  remove(item: T): void {
    const { place } = item
    if (place < 0) return
    item.place = -1
    const last = this.#items.pop()
    if (last === undefined || last === item) return
    this.#sink(last, this.#rise(last, place))
  }

  /** Moves smaller items down until `item` may be at `place`; returns it. */
  #rise(item: T, place: number): number {
    for (let at = place; ; ) {
      const parent = at > 0 ? this.#items[(at - 1) >> 1] : undefined
      if (parent === undefined || parent.bytes >= item.bytes) return at
      at = this.#swapPlace(parent, at)
    }
  }

  /** Moves larger items up until `item` may be where they were, and puts it there. */
  #sink(item: T, place: number): void {
    let at = place
    for (;;) {
      const left = this.#items[2 * at + 1]
      const right = this.#items[2 * at + 2]
      const child = left && right && right.bytes > left.bytes ? right : left
      if (child === undefined || child.bytes <= item.bytes) break
      at = this.#swapPlace(child, at)
    }
    this.#items[at] = item
    item.place = at
  }

  /** Puts an item at `place`; returns where it was. */
  #swapPlace(item: T, place: number): number {
    const from = item.place
    this.#items[place] = item
    item.place = place
    return from
  }
}
