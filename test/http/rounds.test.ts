// Unit tests of which connections rest, and in which order they are read again.

import type { Socket } from 'node:net'
import t from 'tap'
import { Rounds } from '../../src/http/rounds.js'

interface TestSocket extends Pick<Socket, 'destroyed' | 'isPaused'> {
  isResting: boolean
  pause: () => void
  resume: () => void
}

/** Connections by name, the clock, and the requests of a round. */
function setUp() {
  let now = 0
  const rounds = new Rounds(() => now)
  const resumed: string[] = []
  const sockets = new Map<string, TestSocket>()
  const socketOf = (name: string): Socket => {
    const socket: TestSocket = sockets.get(name) ?? {
      destroyed: false,
      isResting: false,
      isPaused: () => socket.isResting,
      pause: () => {
        socket.isResting = true
      },
      resume: () => {
        socket.isResting = false
        resumed.push(name)
      },
    }
    sockets.set(name, socket)
    return socket as unknown as Socket
  }
  return {
    destroy: (name: string) => Object.assign(socketOf(name), { destroyed: true }),
    pause: (name: string) => socketOf(name).pause(),
    /** A request on that connection, so long after the one before. */
    request(name: string, afterMs: number, credential = '', ip = '192.0.2.1') {
      now += afterMs
      rounds.observe({ credential, ip, arrivedAt: now, raw: { socket: socketOf(name) } })
    },
    resting: () => [...sockets].filter(([, { isResting }]) => isResting).map(([name]) => name),
    /** Ends the round, which takes so long after its last request; returns which connections are read again. */
    async end(afterMs = 0) {
      now += afterMs
      await new Promise(setImmediate)
      return resumed.splice(0)
    },
  }
}

t.test('connections rest whose requests come late in a long round', async (t) => {
  const { request, resting, pause, end } = setUp()
  request('a', 0)
  request('b', 10)
  await end(100)
  t.strictSame(resting(), [], 'what lasts long is the last request')
  request('a', 0)
  request('b', 10)
  request('c', 1)
  request('c', 1)
  request('d', 1)
  t.strictSame(resting(), [], 'what has been read is handled')
  await end()
  t.strictSame(resting(), ['c', 'd'])
  t.strictSame([await end(), await end()], [['c', 'd'], []])
  request('a', 0)
  request('b', 5)
  await end()
  t.strictSame(resting(), [], 'each round begins anew')
  request('a', 0)
  request('paused', 11)
  pause('paused')
  await end()
  t.strictSame([await end(), resting()], [[], ['paused']], 'what something else has paused is left to it')
})

t.test('they are read again in turns of their senders, as many as keep the rounds short', async (t) => {
  const { request, resting, end, destroy } = setUp()
  request('first', 0)
  for (let n = 0; n < 20; n++) request(`anonymous ${n}`, 11)
  request('agent 0', 1, 'agent')
  request('agent 1', 1, 'agent')
  await end()
  t.equal(resting().length, 22)
  destroy('anonymous 1')
  t.strictSame(await end(), ['anonymous 0', 'agent 0'], 'two at first')
  request('anonymous 0', 0)
  t.strictSame(await end(3), ['agent 1'], 'fewer after a round of over 2 ms')
  request('agent 1', 0)
  t.strictSame(await end(1), ['anonymous 2', 'anonymous 3'], 'more after a shorter one')
  t.strictSame(await end(), ['anonymous 4', 'anonymous 5', 'anonymous 6', 'anonymous 7'])
  t.equal((await end()).length, 8)
  t.equal((await end()).length, 4, 'until none rests')
  t.strictSame(resting(), ['anonymous 1'], 'but for the one that was closed')
})
