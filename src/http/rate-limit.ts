// Holds each credential to so many batches a minute. Not a library: theirs answer by promises, which here would cost
// more than all the checks of a request together.

import type { onRequestHookHandler } from 'fastify'
import { RateLimited } from './errors.js'

const WINDOW_MS = 60_000
const MAX_CREDENTIALS = 10_000

interface Window {
  endsAt: number
  batches: number
}

/** A hook for after the metrics' and the guard, which tell when and by whom; `limit` 0 lets everything pass. */
export function limitRate(limit: number): onRequestHookHandler {
  // In the order in which their windows began, so that the first is the oldest.
  const windows = new Map<string, Window>()

  return (request, reply, done) => {
    if (limit === 0) return done()
    const { arrivedAt: at } = request
    let window = windows.get(request.credential)
    if (window === undefined || window.endsAt <= at) {
      window = { endsAt: at + WINDOW_MS, batches: 0 }
      windows.delete(request.credential)
      windows.set(request.credential, window)
      if (windows.size > MAX_CREDENTIALS) forgetOldest()
    }
    if (++window.batches <= limit) return done()
    const seconds = Math.ceil((window.endsAt - at) / 1000)
    reply.header('retry-after', seconds)
    done(new RateLimited(limit, seconds))
  }

  function forgetOldest(): void {
    for (const credential of windows.keys()) {
      windows.delete(credential)
      return
    }
  }
}
