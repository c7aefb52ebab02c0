// Expensive work takes turns: the event loop goes on in between, and no sender waits for all the work of another.

import { setImmediate as round } from 'node:timers/promises'
import t from 'tap'
import { Line, Turns } from '../../src/ingest/turns.js'
import { until } from '../helpers/until.js'

const SENDER = { credential: 'sender', ip: '127.0.0.1' }

function spin(ms: number): void {
  const end = performance.now() + ms
  while (performance.now() < end);
}

t.test('in each round of the event loop no more begins than fits into a slice', async (t) => {
  const turns = new Turns()
  let done = 0
  for (let n = 0; n < 5; n++)
    turns.take(SENDER, () => {
      spin(5)
      done++
    })
  t.equal(done, 0)
  for (let rounds = 1; rounds <= 5; rounds++) {
    await round()
    t.equal(done, rounds)
  }
  for (let n = 0; n < 5; n++) turns.take(SENDER, () => void done++)
  await round()
  t.equal(done, 10, 'short work needs no rounds of its own')
})

t.test('senders take turns, however much one of them sends', async (t) => {
  const turns = new Turns()
  const order: string[] = []
  const take = (sender: string) =>
    turns.take({ ...SENDER, credential: sender }, () => {
      order.push(sender)
      spin(3)
    })
  for (let n = 0; n < 10; n++) take('attacker')
  await round()
  take('victim')
  take('victim')
  await until(() => order.length === 12, { what: 'all work' })
  t.ok(order.lastIndexOf('victim') <= 4, order.join(' '))
})

t.test('a credential has no more turns with many addresses, which share them', async (t) => {
  const turns = new Turns()
  const order: string[] = []
  const take = (credential: string, ip: string) =>
    turns.take({ credential, ip }, () => {
      order.push(`${credential} ${ip}`)
      spin(3)
    })
  for (const ip of ['a', 'a', 'a', 'b', 'c']) take('attacker', ip)
  take('victim', 'a')
  take('victim', 'a')
  await until(() => order.length === 7, { what: 'all work' })
  t.strictSame(order, [
    'attacker a',
    'victim a',
    'attacker b',
    'victim a',
    'attacker c',
    'attacker a',
    'attacker a',
  ])
})

t.test('work of other threads runs one at a time, and senders take turns', async (t) => {
  const line = new Line()
  const order: string[] = []
  let running = 0
  const take = (sender: string) =>
    line.take({ ...SENDER, credential: sender }, async () => {
      t.equal(++running, 1)
      await round()
      order.push(sender)
      running--
    })
  for (let n = 0; n < 10; n++) take('attacker')
  await round()
  take('victim')
  await until(() => order.length === 11, { what: 'all work' })
  t.ok(order.indexOf('victim') <= 4, order.join(' '))
  take('victim')
  await until(() => order.length === 12, { what: 'what comes later' })
})
