// A tracker that knows its hash, as every tracker does once its database has been reached.

import { sessionHash } from '../../src/counting/sessions.js'
import { sketchHash } from '../../src/counting/sketch.js'
import { Tracker } from '../../src/counting/tracker.js'

/** The hash of every test's deployment, but of those that have a settings row of their own. */
const key = Buffer.alloc(32, 7)
export const hash = sketchHash(key)
export const keyOf = sessionHash(key)

export function newTracker(exactLimit = 100_000, now?: () => number): Tracker {
  const tracker = now ? new Tracker(exactLimit, now) : new Tracker(exactLimit)
  tracker.useHash(hash, keyOf)
  return tracker
}
