// A set of ids that is exact up to a limit, and from there on a sketch of itself.

import { type Position, Sketch, type SketchHash } from './sketch.js'

/** In place of a position, as long as the key that gives it has not been read. */
const UNKNOWN: Position = -1

export class DistinctIds {
  /** The ids and where their bits lie; undefined once there are more than the limit. */
  #positions: Map<string, Position> | undefined = new Map()
  #sketch = new LazySketch()
  readonly #limit: number

  constructor(limit: number, ...sources: DistinctIds[]) {
    this.#limit = limit
    for (const source of sources) this.#absorb(source)
  }

  /** Whether the id is known to be in it; never, once it is a sketch. */
  has(id: string): boolean {
    return this.#positions?.has(id) === true
  }

  /** Where the id's bit lies, if that is known. */
  position(id: string): Position | undefined {
    return this.#positions?.get(id)
  }

  /** Adds an id; false if it was there, or if its bit was and nothing more is known. */
  add(id: string, position: Position = UNKNOWN): boolean {
    if (!this.#positions) return this.#sketch.add(position)
    if (this.#positions.has(id)) return false
    if (this.#positions.size >= this.#limit) {
      this.#forgetIds()
      return this.#sketch.add(position)
    }
    this.#positions.set(id, position)
    return true
  }

  /** Fills in the positions that were not known when their ids were added. */
  resolve(hash: SketchHash): void {
    for (const [id, position] of this.#positions ?? [])
      if (position === UNKNOWN) this.#positions?.set(id, hash(id))
  }

  /** Whether one more id would make it a sketch. */
  get isAtLimit(): boolean {
    return this.#positions !== undefined && this.#positions.size >= this.#limit
  }

  /** How many there are: exact up to the limit, from there on the sketch's estimate. */
  get count(): number {
    return this.#positions?.size ?? Math.max(this.#limit, this.#sketch.estimate)
  }

  /** Needs all positions to be known. */
  toSketch(): Sketch {
    if (!this.#positions) return this.#sketch.whole
    const sketch = new Sketch()
    for (const position of this.#positions.values()) sketch.add(known(position))
    return sketch
  }

  #forgetIds(): void {
    this.#sketch.merge(this.toSketch())
    this.#positions = undefined
  }

  #absorb(other: DistinctIds): void {
    if (other.#positions) for (const [id, position] of other.#positions) this.add(id, position)
    else {
      if (this.#positions) this.#forgetIds()
      this.#sketch.merge(other.#sketch.whole)
    }
  }
}

/** A sketch that takes no memory until it is needed, and is estimated again only after it has changed. */
class LazySketch {
  #whole: Sketch | undefined
  #estimate: number | undefined

  get whole(): Sketch {
    this.#whole ??= new Sketch()
    return this.#whole
  }

  get estimate(): number {
    this.#estimate ??= this.whole.estimate()
    return this.#estimate
  }

  add(position: Position): boolean {
    const isNew = this.whole.add(known(position))
    if (isNew) this.#estimate = undefined
    return isNew
  }

  merge(other: Sketch): void {
    this.whole.merge(other)
    this.#estimate = undefined
  }
}

function known(position: Position): Position {
  if (position === UNKNOWN) throw new Error('an id was sketched before the key was known')
  return position
}
