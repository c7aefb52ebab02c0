// The errors that the API returns, each defined once with its code, message and status.

import createError from '@fastify/error'

/** Statuses of temporary errors; their responses carry Retry-After, in seconds. */
export const RETRIABLE: ReadonlySet<number> = new Set([429, 503])

/** The codes of Fastify's own errors that the API returns; other errors of the client are BAD_REQUEST. */
export const FASTIFY_CODES = [
  'FST_ERR_BAD_URL',
  'FST_ERR_CTP_BODY_TOO_LARGE',
  'FST_ERR_CTP_INVALID_CONTENT_LENGTH',
  'FST_ERR_VALIDATION',
] as const

export const Unauthorized = createError(
  'UNAUTHORIZED',
  'valid credentials required: send "Authorization: Bearer <token>" with a token or JWT of this service (%s)',
  401,
)
export const Forbidden = createError('FORBIDDEN', '%s', 403)
export const InvalidQuery = createError('INVALID_QUERY', '%s', 400)
export const InvalidBody = createError('INVALID_BODY', '%s', 400)
export const NotFound = createError('NOT_FOUND', '%s', 404)
export const MethodNotAllowed = createError('METHOD_NOT_ALLOWED', 'no %s on this path: use %s', 405)
export const NoSink = createError('NO_SINK', 'snapshots are not delivered: SINK_URL is not set', 409)
export const SnapshotInProgress = createError(
  'SNAPSHOT_IN_PROGRESS',
  'another snapshot is being taken: retry in 1 second',
  409,
)
export const UnsupportedEncoding = createError(
  'UNSUPPORTED_ENCODING',
  'unsupported Content-Encoding %s: use gzip or none',
  415,
)
export const UnsupportedMediaType = createError(
  'UNSUPPORTED_MEDIA_TYPE',
  'unsupported Content-Type %s: use %s',
  415,
)
/** What Node.js rejects before there is a request. */
export const InvalidHttp = createError('INVALID_HTTP', 'not a valid HTTP request: %s', 400)
export const RequestTimeout = createError(
  'REQUEST_TIMEOUT',
  'the request was not received in time: send it again',
  408,
)
export const HeadersTooLarge = createError(
  'HEADERS_TOO_LARGE',
  'the headers exceed the limit: send fewer or shorter ones',
  431,
)
export const RateLimited = createError(
  'RATE_LIMITED',
  'rate limit of %s batches per minute exceeded: retry in %s seconds',
  429,
)
export const InvalidJson = createError('INVALID_JSON', 'the body is not valid JSON: %s', 400)
export const InvalidProtobuf = createError(
  'INVALID_PROTOBUF',
  'the body is not a valid BoundaryLogs message (see openapi/boundary-logs.proto): %s',
  400,
)
export const InvalidGzip = createError('INVALID_GZIP', 'the body is not valid gzip: %s', 400)
/** As Fastify names them, which it throws where it reads a body itself. */
export const BodyTooLarge = createError('FST_ERR_CTP_BODY_TOO_LARGE', 'Request body is too large', 413)
export const InvalidContentLength = createError(
  'FST_ERR_CTP_INVALID_CONTENT_LENGTH',
  'Request body size did not match Content-Length',
  400,
)
export const DatabaseUnavailable = createError(
  'DATABASE_UNAVAILABLE',
  'the database is unavailable: retry later',
  503,
)
export const DatabaseBusy = createError(
  'DATABASE_BUSY',
  'the database is available but canceled the statement: retry later',
  503,
)
export const DatabaseQueueFull = createError(
  'DATABASE_QUEUE_FULL',
  'too many requests wait for the database: retry later',
  503,
)
export const RangeTooExpensive = createError(
  'RANGE_TOO_EXPENSIVE',
  'the range contains too many snapshots to be read within 10 seconds: request a shorter range',
  400,
)
export const TooManySessions = createError(
  'TOO_MANY_SESSIONS',
  'this replica holds as many sequence numbers as one flush can write: retry later',
  503,
)
export const OutcomeUnknown = createError(
  'OUTCOME_UNKNOWN',
  'not committed in time: the batch will be counted once the database is available; a retry counts once only with a session_id',
  504,
)
export const Overloaded = createError('OVERLOADED', 'this replica is overloaded: retry later', 503)
export const ShuttingDown = createError(
  'SHUTTING_DOWN',
  'this replica is shutting down: retry on another replica',
  503,
)
