// What the forwarder has done since it started. Logs are counted here and nowhere else.

export class Totals {
  frames = 0
  /** Logs read from boundaries. */
  logs_read = 0
  /** Logs that an earlier forwarder left in the spool. */
  logs_recovered = 0
  /** Logs that the service has acknowledged. */
  logs_sent = 0
  /** Logs of frames that the service refuses for good. */
  logs_refused = 0
  logs_dropped_over_limit = 0
  logs_dropped_waiting_for_disk = 0
  logs_dropped_too_old = 0
  /** Frames whose message cannot be read. */
  frames_unreadable = 0
  /** Connections that ended with bytes that begin no frame, or in the middle of one. */
  connections_cut = 0
  /** Connections closed at once because there are too many. */
  connections_refused = 0
  spool_records_bad = 0
  tee_frames_dropped = 0
  /** What the boundaries say that they themselves dropped. */
  boundary_dropped_queue_full = 0
  boundary_dropped_batch_full = 0
}
