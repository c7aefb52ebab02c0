// Unit tests of the sketch: its error over many seeds, its merge, its hash and its text form.

import { randomBytes, randomUUID } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import { BUCKETS, differenceError, RANKS, Sketch, sketchHash } from '../../src/counting/sketch.js'
import { cases } from '../helpers/effort.js'

/** The positions of an ideal hash, from a seed (xoshiro128**). */
function randomPositions(seed: number): () => number {
  let [a, b, c, d] = [seed | 0, (seed * 0x9e3779b9) | 0, 0x243f6a88, 0xb7e15162]
  const next = () => {
    const product = Math.imul(b, 5)
    const result = Math.imul((product << 7) | (product >>> 25), 9)
    const shifted = b << 9
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= shifted
    d = (d << 11) | (d >>> 21)
    return result
  }
  for (let n = 0; n < 20; n++) next()
  return () => Math.min(Math.clz32(next()), RANKS - 1) * BUCKETS + (next() & (BUCKETS - 1))
}

function sketchOf(count: number, seed: number): Sketch {
  const sketch = new Sketch()
  const position = randomPositions(seed)
  for (let n = 0; n < count; n++) sketch.add(position())
  return sketch
}

t.test('the error is at most 0.8 % RMSE from 1,000 to 1,000,000 ids, without bias', async (t) => {
  for (const [count, trials] of [
    [1_000, cases({ suite: 300, soak: 1_000 })],
    [10_000, cases({ suite: 200, soak: 600 })],
    [100_000, cases({ suite: 50, soak: 300 })],
    [1_000_000, cases({ suite: 10, soak: 100 })],
  ] as const) {
    const errors = Array.from(
      { length: trials },
      (_, trial) => sketchOf(count, trial + 1).estimate() / count - 1,
    )
    const bias = errors.reduce((sum, error) => sum + error, 0) / trials
    const rmse = Math.sqrt(errors.reduce((sum, error) => sum + error ** 2, 0) / trials)
    t.ok(rmse <= 0.008, `${count} ids: RMSE ${(rmse * 100).toFixed(2)} %`)
    t.ok(Math.abs(bias) < (3 * rmse) / Math.sqrt(trials), `bias ${(bias * 100).toFixed(3)} %`)
  }
})

t.test('up to 100 ids the estimate is within 1 of the truth in at least 95 % of trials', async (t) => {
  for (const count of [0, 1, 2, 5, 10, 37, 75, 100]) {
    const trials = cases({ suite: 200, soak: 1_000 })
    let near = 0
    for (let seed = 1; seed <= trials; seed++)
      if (Math.abs(sketchOf(count, seed).estimate() - count) <= 1) near++
    t.ok(near / trials >= 0.95, `${count} ids: ${near} of ${trials}`)
  }
})

t.test('the standard error of a difference is what it turns out to be', async (t) => {
  for (const [before, added, trials] of [
    [1_000, 1_000, cases({ suite: 200, soak: 1_000 })],
    [10_000, 10, cases({ suite: 300, soak: 1_000 })],
    [10_000, 1_000, cases({ suite: 200, soak: 1_000 })],
    [100_000, 1_000, cases({ suite: 40, soak: 300 })],
  ] as const) {
    let squares = 0
    for (let trial = 1; trial <= trials; trial++) {
      const sketch = new Sketch()
      const position = randomPositions(trial)
      for (let n = 0; n < before; n++) sketch.add(position())
      const earlier = sketch.estimate()
      for (let n = 0; n < added; n++) sketch.add(position())
      squares += (sketch.estimate() - earlier - added) ** 2
    }
    const found = Math.sqrt(squares / trials)
    const stated = differenceError(before, added)
    // Four standard deviations of a standard deviation of so many trials.
    t.ok(
      Math.abs(found / stated - 1) < 4 / Math.sqrt(2 * trials) + 0.05,
      `${before} and ${added}: ${found}, stated ${stated}`,
    )
  }
  t.ok(differenceError(100_000, 0) > 8, 'of few ids none may set a bit')
  t.equal(Math.round(differenceError(0, 1_000)), 5, 'that of the estimate itself')
  t.equal(differenceError(Number.MAX_SAFE_INTEGER, 5), 5, 'a full sketch tells nothing')
})

t.test('a merge is the sketch of the union, in any order and any number of times', async (t) => {
  const hash = sketchHash(randomBytes(32))
  const ids = Array.from({ length: 200 }, () => randomUUID())
  const of = (which: readonly number[]) => {
    const sketch = new Sketch()
    for (const index of which) sketch.add(hash(ids[index] ?? ''))
    return sketch
  }
  const set = fc.array(fc.nat(199))
  fc.assert(
    fc.property(set, set, set, (a, b, c) => {
      const merged = of(c)
      for (const part of [b, a, c, b]) merged.merge(of(part))
      return merged.toBitString() === of([...a, ...b, ...c]).toBitString()
    }),
  )
  t.pass('for any three sets')
})

t.test('the keyed hash distributes ids as an ideal hash does', async (t) => {
  const hash = sketchHash(randomBytes(32))
  const sketch = new Sketch()
  const perBucket = new Uint32Array(BUCKETS)
  const perRank = new Uint32Array(RANKS)
  const count = cases({ suite: 50_000, soak: 200_000 })
  for (let n = 0; n < count; n++) {
    const position = hash(randomUUID())
    sketch.add(position)
    perBucket[position % BUCKETS] = (perBucket[position % BUCKETS] ?? 0) + 1
    perRank[Math.floor(position / BUCKETS)] = (perRank[Math.floor(position / BUCKETS)] ?? 0) + 1
  }
  const expected = count / BUCKETS
  const chiSquare = perBucket.reduce((sum, seen) => sum + (seen - expected) ** 2 / expected, 0)
  // Six standard deviations of a chi-square with as many degrees of freedom.
  t.ok(Math.abs(chiSquare - (BUCKETS - 1)) < 6 * Math.sqrt(2 * BUCKETS), `chi-square ${chiSquare}`)
  for (let rank = 0; rank < 8; rank++) {
    const half = count / 2 ** (rank + 1)
    t.ok(Math.abs((perRank[rank] ?? 0) - half) < 6 * Math.sqrt(half), `rank ${rank}`)
  }
  t.ok(Math.abs(sketch.estimate() / count - 1) < 0.04)
})

t.test('the hash depends on the key, and only on the key and the id', async (t) => {
  const key = randomBytes(32)
  const ids = Array.from({ length: 50 }, () => randomUUID())
  const positions = ids.map(sketchHash(key))
  t.strictSame(ids.map(sketchHash(key)), positions)
  t.notSame(ids.map(sketchHash(randomBytes(32))), positions)
})

t.test('the text form omits trailing zeros', async (t) => {
  const sketch = new Sketch()
  t.equal(sketch.toBitString(), 'x')
  t.equal(sketch.add(0), true)
  t.equal(sketch.add(0), false)
  sketch.add(15)
  t.equal(sketch.toBitString(), 'x8001')
})

t.test('an empty sketch estimates 0, a full one the largest safe integer, and neither NaN', async (t) => {
  t.equal(new Sketch().estimate(), 0)
  const full = new Sketch()
  for (let position = 0; position < BUCKETS * RANKS; position++) full.add(position)
  t.equal(full.estimate(), Number.MAX_SAFE_INTEGER)
  const lastMissing = new Sketch()
  for (let position = 1; position < BUCKETS * RANKS; position++) lastMissing.add(position)
  t.ok(Number.isSafeInteger(lastMissing.estimate()))
})
