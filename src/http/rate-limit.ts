// Fixed-window limit on batches per credential. It is not a library, because their hooks are async: a promise costs more
// than all checks of a request together.

import type { onRequestHookHandler } from 'fastify'
import { RateLimited } from './errors.js'

const WINDOW_MS = 60_000
const MAX_CREDENTIALS = 10_000

interface Window {
  endsAt: number
  batches: number
}

/** Must run after the hooks that set `arrivedAt` and `credential`. A `limit` of 0 disables it. */
export function limitRate(limit: number): onRequestHookHandler {
  // By credential, in the order in which the windows began: the first entry is the oldest.
  const windows = new Map<string, Window>()

  return (request, reply, done) => {
    if (limit === 0) return done()
    const { arrivedAt: at } = request
    let window = windows.get(request.credential)
    if (window === undefined || window.endsAt <= at) {
      window = { endsAt: at + WINDOW_MS, batches: 0 }
      windows.delete(request.credential)
      windows.set(request.credential, window)
      if (windows.size > MAX_CREDENTIALS) removeOldest()
    }
    if (++window.batches <= limit) return done()
    const seconds = Math.ceil((window.endsAt - at) / 1000)
    reply.header('retry-after', seconds)
    done(new RateLimited(limit, seconds))
  }

  function removeOldest(): void {
    for (const credential of windows.keys()) {
      windows.delete(credential)
      return
    }
  }
}
