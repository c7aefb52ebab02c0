// Property test: the heap's first item is one that a search through all items would find.

import fc from 'fast-check'
import t from 'tap'
import { Largest, type Sized } from '../../src/forwarder/largest.js'
import { cases } from '../helpers/effort.js'

const ITEMS = 30

/** A change of one item: its new size, or undefined if it is removed. */
const change = fc.record({
  index: fc.nat(ITEMS - 1),
  bytes: fc.option(fc.nat(19), { nil: undefined, freq: 2 }),
})

t.test('after any additions, changes and removals the first item is a largest one', async (t) => {
  const numRuns = cases({ suite: 50, soak: 500 })
  let checked = 0
  fc.assert(
    fc.property(fc.array(change, { minLength: 300, maxLength: 300 }), (changes) => {
      const largest = new Largest<Sized & { bytes: number }>()
      const items = Array.from({ length: ITEMS }, () => ({ bytes: 0, place: -1 }))
      const present = new Set<Sized>()
      checked++
      return changes.every(({ index, bytes }) => {
        const item = items[index] ?? { bytes: 0, place: -1 }
        if (bytes === undefined) {
          largest.remove(item)
          present.delete(item)
        } else {
          item.bytes = bytes
          largest.put(item)
          present.add(item)
        }
        const sizes = [...present].map(({ bytes }) => bytes)
        const { first } = largest
        return (
          first?.bytes === (sizes.length === 0 ? undefined : Math.max(...sizes)) &&
          (!first || present.has(first))
        )
      })
    }),
    { numRuns },
  )
  t.equal(checked, numRuns)
})
