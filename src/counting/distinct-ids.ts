// A set of ids: exact up to a limit, a sketch beyond it.

import { type Position, Sketch, type SketchHash } from './sketch.js'

/** Stands for a position until the deployment's key is known. */
const UNKNOWN: Position = -1

export class DistinctIds {
  /** Each id with its position in the sketch; undefined once the limit was exceeded. */
  #positions: Map<string, Position> | undefined = new Map()
  #sketch = new LazySketch()
  readonly #limit: number

  constructor(limit: number, ...sources: DistinctIds[]) {
    this.#limit = limit
    for (const source of sources) this.#absorb(source)
  }

  /** Whether the set is known to contain the id; always false once it is a sketch. */
  has(id: string): boolean {
    return this.#positions?.has(id) === true
  }

  /** The id's position in the sketch, if the set knows it. */
  position(id: string): Position | undefined {
    return this.#positions?.get(id)
  }

  /** Whether add() would return true. */
  isNew(id: string, position: Position = UNKNOWN): boolean {
    return this.#positions ? !this.#positions.has(id) : !this.#sketch.whole.has(known(position))
  }

  /** Adds an id. Returns false if the set, or once it is a sketch the id's bit, already contained it. */
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

  /** Sets the positions of ids that were added before the key was known. */
  resolve(hash: SketchHash): void {
    for (const [id, position] of this.#positions ?? [])
      if (position === UNKNOWN) this.#positions?.set(id, hash(id))
  }

  /** Whether one more id would turn the set into a sketch. */
  get isAtLimit(): boolean {
    return this.#positions !== undefined && this.#positions.size >= this.#limit
  }

  /** The number of ids: exact up to the limit, the sketch's estimate beyond it. */
  get count(): number {
    return this.#positions?.size ?? Math.max(this.#limit, this.#sketch.estimate)
  }

  /** Requires that all positions are known. */
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

/** A sketch that is allocated on first use and caches its estimate until it changes. */
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
  if (position === UNKNOWN) throw new Error('an id cannot be added to a sketch before the key is known')
  return position
}
