// Bodies in progress hold no more than their budget, which their senders share.

import t from 'tap'
import { BodyBudget } from '../../src/http/body-budget.js'

const KIB = 1024
const LIMIT = 1024 * KIB

function fill(
  budget: BodyBudget,
  credential: string,
  count: number,
  bytes: number,
  ended: string[] = [],
  addressOf: (n: number) => string = () => '127.0.0.1',
) {
  return Array.from({ length: count }, (_, n) => {
    const sender = { credential, ip: addressOf(n) }
    const held = budget.open(sender, () => void ended.push(`${credential} ${n}`))
    held.hold(bytes)
    return held
  })
}

t.test('beyond the budget the largest body of the sender that holds most ends', async (t) => {
  const budget = new BodyBudget(LIMIT)
  const ended: string[] = []
  fill(budget, 'some', 4, 50 * KIB, ended)
  const [large] = fill(budget, 'much', 1, 300 * KIB, ended)
  fill(budget, 'most', 3, 84 * KIB, ended)
  fill(budget, 'most', 1, 90 * KIB, ended)
  t.strictSame(ended, [])
  large?.hold(400 * KIB)
  t.strictSame(ended, ['much 0'], 'which may be the one that asks for more')
  t.ok(budget.bytes < LIMIT)
})

t.test('a sender finds room for as much as any other holds', async (t) => {
  const budget = new BodyBudget(LIMIT)
  const ended: string[] = []
  fill(budget, 'attacker', 60, 16 * KIB, ended)
  t.ok(ended.length > 0, 'the attacker fills all there is')
  fill(budget, 'victim', 10, 16 * KIB, ended)
  t.notMatch(ended.join(), 'victim')
  fill(budget, 'attacker', 20, 16 * KIB, ended)
  t.notMatch(ended.join(), 'victim')
})

t.test('a credential finds no more room with many addresses, which share it', async (t) => {
  const budget = new BodyBudget(LIMIT)
  const ended: string[] = []
  fill(budget, 'attacker', 40, 16 * KIB, ended, (n) => `2001:db8::${n}`)
  fill(budget, 'victim', 3, 100 * KIB, ended)
  t.ok(ended.length > 0)
  t.notMatch(ended.join(), 'victim')

  const busy = new BodyBudget(LIMIT)
  const others: string[] = []
  fill(busy, 'shared', 40, 16 * KIB, [], () => '203.0.113.1')
  fill(busy, 'shared', 5, 16 * KIB, others, () => '203.0.113.2')
  t.strictSame(others, [], 'of another address with the same credential')
})

t.test('a small body finds room, even if it has the credential of one that holds all', async (t) => {
  const budget = new BodyBudget(LIMIT)
  const ended: string[] = []
  fill(budget, 'shared', 20, 100 * KIB, ended)
  t.ok(ended.length > 0)
  const small: string[] = []
  fill(budget, 'shared', 5, 2 * KIB, small)
  t.strictSame(small, [])
  t.ok(budget.bytes <= LIMIT)
})

t.test('what is released is free again, once, and what was ended holds nothing', async (t) => {
  const budget = new BodyBudget(LIMIT)
  const bodies = fill(budget, 'one', 20, 100 * KIB)
  for (const body of bodies) {
    body.release()
    body.release()
    body.hold(100 * KIB)
  }
  t.equal(budget.bytes, 0)
})

t.test('when the heap is full, all bodies of the sender that holds most end', async (t) => {
  const budget = new BodyBudget(LIMIT)
  budget.shed()
  const ended: string[] = []
  fill(budget, 'less', 2, 10 * KIB, ended)
  fill(budget, 'more', 3, 10 * KIB, ended)
  budget.shed()
  t.strictSame(ended, ['more 0', 'more 1', 'more 2'])
  budget.shed()
  t.equal(budget.bytes, 0)
})
