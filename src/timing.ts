// Deadlines and delays that are not settings: what operators would have to know, but never to change. Tests shorten them.

export interface Timing {
  /** How long to wait for the database's answer: longer than its own timeouts, for when it does not answer at all. */
  databaseDeadlineMs: number
  /** Upper bound of the delay before a failed connection is reopened. */
  reconnectMs: number
  /** How long a batch waits for its commit before it is answered 504. */
  commitDeadlineMs: number
  /** How late the event loop may be, twice in a row, before batches are rejected as overload. */
  maxEventLoopDelayMs: number
}

export const TIMING: Timing = {
  databaseDeadlineMs: 15_000,
  reconnectMs: 250,
  commitDeadlineMs: 10_000,
  maxEventLoopDelayMs: 1_000,
}
