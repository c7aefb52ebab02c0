// The settings row is created once, even if several replicas start together.

import t from 'tap'
import { readSketchKey } from '../../src/database/settings.js'
import { testDatabase } from '../helpers/database.js'

t.test('replicas that start together all get the same key', async (t) => {
  const { database, sql } = await testDatabase(t)
  const keys = await Promise.all(Array.from({ length: 50 }, () => database.run(readSketchKey)))
  const [stored, ...others] = await sql`select sketch_key from boundary_usage_settings`
  t.equal(others.length, 0)
  t.equal(stored?.sketch_key.length, 32)
  for (const key of keys) t.ok(Buffer.from(key).equals(stored?.sketch_key))
})
