// The refusals of the API, each made once: code, message that says what to change, status.

import createError from '@fastify/error'

/** The statuses that pass by themselves: they carry Retry-After, in seconds. */
export const RETRIABLE: ReadonlySet<number> = new Set([409, 429, 503])

export const Unauthorized = createError(
  'UNAUTHORIZED',
  'no valid credentials: send "Authorization: Bearer <token>" with a token or JWT of this service (%s)',
  401,
)
export const Forbidden = createError('FORBIDDEN', '%s', 403)
export const InvalidQuery = createError('INVALID_QUERY', '%s', 400)
export const InvalidBody = createError('INVALID_BODY', '%s', 400)
export const NotFound = createError('NOT_FOUND', '%s', 404)
export const NoSink = createError('NO_SINK', 'no snapshot is delivered: SINK_URL is not set', 400)
export const SnapshotInProgress = createError(
  'SNAPSHOT_IN_PROGRESS',
  'another snapshot is being taken: try again in a second',
  409,
)
export const UnsupportedEncoding = createError(
  'UNSUPPORTED_ENCODING',
  'Content-Encoding %s is not supported: send gzip or none',
  415,
)
export const RateLimited = createError(
  'RATE_LIMITED',
  'over %s batches a minute: send again in %s seconds',
  429,
)
export const InvalidJson = createError('INVALID_JSON', 'the body cannot be read as JSON: %s', 400)
export const InvalidProtobuf = createError(
  'INVALID_PROTOBUF',
  'the body is not a batch as openapi/boundary-logs.proto defines it: %s',
  400,
)
export const InvalidGzip = createError('INVALID_GZIP', 'the body is not valid gzip: %s', 400)
export const DatabaseUnavailable = createError(
  'DATABASE_UNAVAILABLE',
  'the database cannot be reached: try again later',
  503,
)
export const OutcomeUnknown = createError(
  'OUTCOME_UNKNOWN',
  'not committed in time: the batch will be counted when the database is back, so sending it again may count it twice',
  504,
)
export const Overloaded = createError(
  'OVERLOADED',
  'this replica is overloaded: send the batch again later',
  503,
)
export const ShuttingDown = createError(
  'SHUTTING_DOWN',
  'this replica is shutting down: send the request again, to another one',
  503,
)
