// The settings row, which all replicas of a deployment share. The first one to start inserts it.

import { randomBytes } from 'node:crypto'
import { StartError } from '../start-error.js'
import type { Executor } from './client.js'
import { boundaryUsageSettings } from './schema.js'

export const SKETCH_KEY_BYTES = 32

/** The key of the sketches' hash. Replicas that start together all read the key that was inserted first. */
export async function readSketchKey(db: Executor): Promise<Uint8Array> {
  const read = () => db.select({ key: boundaryUsageSettings.sketch_key }).from(boundaryUsageSettings)
  let [row] = await read()
  if (!row) {
    await db
      .insert(boundaryUsageSettings)
      .values({ sketch_key: randomBytes(SKETCH_KEY_BYTES) })
      .onConflictDoNothing()
    ;[row] = await read()
  }
  if (!row) throw new StartError('the row of boundary_usage_settings is missing: restore it from a backup')
  if (row.key.length !== SKETCH_KEY_BYTES)
    throw new StartError(
      `the sketch key in boundary_usage_settings has ${row.key.length} bytes, not ${SKETCH_KEY_BYTES}: restore it from a backup`,
    )
  return row.key
}
