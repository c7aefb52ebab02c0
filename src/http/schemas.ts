// Schemas shared by all routes: common fields, errors, health, and the responses of a route.

import { type Static, type TSchema, Type } from '@sinclair/typebox'

export const id = (description: string) =>
  Type.String({ format: 'uuid', description, examples: ['0b5e9a1c-6a43-4d0c-8a35-0f2f4f1f7a10'] })

export const time = (description: string) =>
  Type.Unsafe<Date>({
    type: 'string',
    format: 'date-time',
    description,
    examples: ['2026-01-31T12:30:00.000Z'],
  })

export const count = (description: string) => Type.Integer({ minimum: 0, description, examples: [41] })

export const oneOf = <const T extends string>(values: readonly T[], options: { default?: NoInfer<T> } = {}) =>
  Type.Unsafe<T>({ type: 'string', enum: values, ...options })

export const nullable = <T extends TSchema>(schema: T) =>
  Type.Unsafe<Static<T> | null>({ ...schema, type: [schema.type, 'null'] })

export const ErrorSchema = Type.Object(
  {
    statusCode: Type.Integer({ examples: [400] }),
    code: Type.String({ description: 'Identifies the error, for programs.', examples: ['INVALID_BODY'] }),
    error: Type.String({ examples: ['Bad Request'] }),
    message: Type.String({
      description: 'Says what is wrong and what to change.',
      examples: ['/logs/3/allowed must be a boolean'],
    }),
  },
  { $id: 'Error', title: 'Error' },
)

/** A reference to a schema that is registered under its `$id`. */
export const ref = <T extends TSchema>(schema: T) => Type.Unsafe<Static<T>>(Type.Ref(`${schema.$id}#`))

export const HealthSchema = Type.Object(
  {
    status: oneOf(['ok', 'unavailable']),
    reasons: Type.Array(Type.String(), {
      maxItems: 10,
      description: 'Why the replica is unavailable; empty if it is not.',
    }),
  },
  { $id: 'Health', title: 'Health' },
)

const ERRORS = {
  400:
    'The request does not match its schema, or its values contradict each other or a limit. The message names what to ' +
    'change.',
  401: 'Missing or unknown credentials.',
  403: 'The credentials do not authorize this, or are those of another workspace.',
  404: 'Not found.',
  408: 'The request was not received in time.',
  409: 'The state of the service prevents this. The message says what to do.',
  413: 'The body exceeds the limit, before or after decompression.',
  415: 'Unsupported content type, with the supported ones in Accept, or encoding, with those in Accept-Encoding.',
  429: 'Too many batches from this credential. Retry after the time in Retry-After.',
  503: 'Overloaded or shutting down, or the database is unavailable or busy. Retry after the time in Retry-After.',
  504: 'Only with ACK=durable, with the code OUTCOME_UNKNOWN: the batch was not committed in time, but will be counted.',
  default: 'Any other error, such as 408 REQUEST_TIMEOUT, 431 HEADERS_TOO_LARGE or 500 INTERNAL_ERROR.',
} as const

const text = (description: string) => ({ type: 'string', description })

export const RETRY_AFTER = {
  'Retry-After': { type: 'integer', minimum: 0, description: 'Seconds to wait before a retry.' },
}

/** The headers of error responses, by status. */
const ERROR_HEADERS: { [status: string]: Record<string, object> } = {
  401: { 'WWW-Authenticate': text('Bearer.') },
  415: {
    Accept: text('The supported content types, if the content type is the fault.'),
    'Accept-Encoding': text('The supported encodings, if the encoding is the fault.'),
  },
  429: RETRY_AFTER,
  503: RETRY_AFTER,
}

/** The response to an error with this status. */
export function errorResponse(
  status: keyof typeof ERRORS,
  { description = ERRORS[status] as string, headers = ERROR_HEADERS[status] } = {},
): TSchema {
  return { ...ref(ErrorSchema), description, ...(headers && { headers }) }
}

/** The responses of a route: the successful one, the errors of the given statuses, and any other error. */
export function responses<S extends object, N extends 200 | 202>(
  status: N,
  schema: S,
  description: string,
  ...statuses: Exclude<keyof typeof ERRORS, 'default'>[]
): Record<N, S> & { [code: number]: TSchema } {
  const entries = [...statuses, 'default' as const].map((code) => [code, errorResponse(code)])
  return { [status]: { ...schema, description }, ...Object.fromEntries(entries) }
}

/** Registered by their `$id`. */
export const HTTP_SCHEMAS = [ErrorSchema, HealthSchema]
