// Deadlines, delays and thresholds that are not settings, because operators never need to change them. Tests lower them.

export interface Timing {
  /** Maximum time to wait for the database: longer than its own timeouts, for when it does not respond at all. */
  databaseDeadlineMs: number
  /** Upper bound of the delay before a failed connection is reopened. */
  reconnectMs: number
  /** Maximum time that an admin's request waits for a connection. */
  requestWaitMs: number
  /** How long a connection stays open unused; flushes keep theirs. */
  idleConnectionMs: number
  /** Maximum time that a batch waits for its commit before the response is 504. */
  commitDeadlineMs: number
  /** How long a client may neither send nor receive anything during a request, if REQUEST_TIMEOUT_MS is not longer. */
  silentConnectionMs: number
  /** How late the event loop may be, twice in a row, before batches are rejected as overload. */
  maxEventLoopDelayMs: number
  /** How long a session has been silent when its missing logs are reported: a retried log arrives within it. */
  silenceMs: number
  /** Time between two heartbeats of a replica; it is silent when none arrived for a minute. */
  heartbeatMs: number
  /** Time between two reports of a replica without scheduled snapshots. */
  reportMs: number
  /** Maximum time that the waiters of ACK=durable wait for a snapshot. */
  durableHoldMs: number
  /** Least time between two previews of a replica, each of which makes all replicas report. */
  previewMs: number
  /** How long a replica leaves a scheduled snapshot to another one before it looks whether it was taken. */
  checkMs: number
  /** Time between two removals of sessions that are no longer remembered. */
  sessionRetentionMs: number
  /** Time between two looks at how much the embedded PostgreSQL has written. */
  upkeepMs: number
  /** How much it has written since the last checkpoint when it is vacuumed. */
  upkeepBytes: number
}

export const TIMING: Timing = {
  databaseDeadlineMs: 15_000,
  reconnectMs: 250,
  requestWaitMs: 5_000,
  idleConnectionMs: 60_000,
  commitDeadlineMs: 10_000,
  silentConnectionMs: 60_000,
  maxEventLoopDelayMs: 1_000,
  silenceMs: 600_000,
  heartbeatMs: 20_000,
  reportMs: 1_800_000,
  durableHoldMs: 250,
  previewMs: 1_000,
  checkMs: 1_000,
  sessionRetentionMs: 600_000,
  // Short enough that it writes no more than some tens of megabytes meanwhile.
  upkeepMs: 5_000,
  // A multiple of what PostgreSQL writes at once, and about as much as a new data directory.
  upkeepBytes: 32 * 1_048_576,
}
