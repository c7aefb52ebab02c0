// Schemas shared by all routes: common fields, errors, health, and the responses of a route.

import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { RETRIABLE } from './errors.js'

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
      description: 'Why the replica is unavailable; empty if it is not.',
    }),
  },
  { $id: 'Health', title: 'Health' },
)

const ERRORS = {
  400: 'The request does not match its schema. The message names the field and its index.',
  401: 'Missing or unknown credentials.',
  403: 'The credentials do not authorize this, or are those of another workspace.',
  404: 'Not found.',
  408: 'The request was not received in time.',
  409: 'Another snapshot is being taken. Retry after the time in Retry-After.',
  413: 'The body exceeds the limit, before or after decompression.',
  415: 'Unsupported content type or encoding.',
  429: 'Too many batches from this credential. Retry after the time in Retry-After.',
  504: 'Only with ACK=durable, with the code OUTCOME_UNKNOWN: the batch was not committed in time, but will be counted.',
  503: 'Overloaded or shutting down, or the database is unavailable. Retry after the time in Retry-After.',
} as const

const RETRY_AFTER = {
  'Retry-After': { type: 'integer', description: 'Seconds to wait before a retry.' },
}

/** The responses of a route: the successful one, and the errors of the given statuses. */
export function responses<S extends TSchema, N extends 200 | 202>(
  status: N,
  schema: S,
  description: string,
  ...statuses: (keyof typeof ERRORS)[]
): Record<N, S> & { [code: number]: TSchema } {
  const entries = statuses.map((code) => [
    code,
    {
      ...ref(ErrorSchema),
      description: ERRORS[code],
      ...(RETRIABLE.has(code) && { headers: RETRY_AFTER }),
    },
  ])
  return { [status]: { ...schema, description }, ...Object.fromEntries(entries) }
}

/** Registered by their `$id`. */
export const HTTP_SCHEMAS = [ErrorSchema, HealthSchema]
