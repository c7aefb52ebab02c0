// Unit tests of the statement timeouts of work that must be done in the end.

import t from 'tap'
import { DatabaseBusyError } from '../../src/database/client.js'
import { Patience } from '../../src/database/patience.js'

const canceled = () => new DatabaseBusyError(Object.assign(new Error('statement timeout'), { code: '57014' }))
const locked = () => new DatabaseBusyError(Object.assign(new Error('lock timeout'), { code: '55P03' }))

t.test('only what took too long may take longer, until it is done', async (t) => {
  const patience = new Patience()
  const attempt = async (error?: () => Error) => {
    let given = 0
    const outcome = patience.attempt(async (statementTimeoutMs) => {
      given = statementTimeoutMs
      if (error) throw error()
      return 'done'
    })
    await (error ? t.rejects(outcome, { name: 'DatabaseBusyError' }) : t.resolveMatch(outcome, 'done'))
    return given
  }
  t.equal(await attempt(canceled), 10_000)
  t.equal(await attempt(locked), 20_000)
  t.equal(await attempt(canceled), 20_000)
  t.equal(await attempt(), 40_000)
  t.equal(await attempt(canceled), 10_000)
  for (let n = 0; n < 10; n++) await attempt(canceled)
  t.equal(await attempt(), 1_280_000)
})
