// A tracker that knows its hash, as every tracker does once its database has been reached.

import { sketchHash } from '../../src/counting/sketch.js'
import { Tracker } from '../../src/counting/tracker.js'

/** The hash of every test's deployment, but of those that have a settings row of their own. */
export const hash = sketchHash(Buffer.alloc(32, 7))

export function newTracker(exactLimit = 100_000, now?: () => number): Tracker {
  const tracker = now ? new Tracker(exactLimit, now) : new Tracker(exactLimit)
  tracker.useHash(hash)
  return tracker
}
