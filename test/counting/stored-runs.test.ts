// Unit tests of what is remembered of sessions with many runs.

import t from 'tap'
import { Session } from '../../src/counting/sessions.js'
import { StoredRuns } from '../../src/counting/stored-runs.js'

t.test('sessions of one id in two workspaces are different', async (t) => {
  const stored = new StoredRuns()
  stored.learn([new Session('w', 's'), new Session('x', 's')], { 0: 40 })
  t.equal(stored.of('w', 's'), 40)
  t.equal(stored.of('x', 's'), 0)
})

t.test('the sessions that were flushed longest ago are forgotten first', async (t) => {
  const stored = new StoredRuns()
  const sessions = Array.from({ length: 20_001 }, (_, n) => new Session('w', `s${n}`))
  const runs = Array.from(sessions, () => 20)
  stored.learn(sessions.slice(0, 20_000), runs)
  stored.learn(sessions.slice(0, 1), runs)
  stored.learn(sessions.slice(20_000), runs)
  t.strictSame(
    ['s0', 's1', 's2', 's20000'].map((id) => stored.of('w', id)),
    [20, 0, 20, 20],
  )
})
