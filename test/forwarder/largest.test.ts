// The largest of many items: whatever changes, it is the one that a search through all of them finds.

import t from 'tap'
import { Largest } from '../../src/forwarder/largest.js'
import { cases } from '../helpers/effort.js'

interface Item {
  bytes: number
  place: number
}

t.test('after any additions, changes and removals the first item is a largest one', async (t) => {
  let wrong = 0
  for (let run = 0; run < cases({ suite: 50, soak: 500 }); run++) {
    const largest = new Largest<Item>()
    const items = Array.from({ length: 30 }, (): Item => ({ bytes: 0, place: -1 }))
    const present = new Set<Item>()
    for (let step = 0; step < 300; step++) {
      const item = items[Math.floor(Math.random() * items.length)] as Item
      if (Math.random() < 0.3) {
        largest.remove(item)
        present.delete(item)
      } else {
        item.bytes = Math.floor(Math.random() * 20)
        largest.put(item)
        present.add(item)
      }
      const expected = present.size === 0 ? undefined : Math.max(...[...present].map(({ bytes }) => bytes))
      const { first } = largest
      if (first?.bytes !== expected || (first && !present.has(first))) wrong++
    }
  }
  t.equal(wrong, 0)
})
