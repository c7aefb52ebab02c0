// Schemas that all routes share: common fields, errors, health, and the responses of a route.

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
    code: Type.String({ description: 'Names the fault for programs.', examples: ['INVALID_BODY'] }),
    error: Type.String({ examples: ['Bad Request'] }),
    message: Type.String({
      description: 'Says what to change.',
      examples: ['body/logs/3/allowed must be boolean'],
    }),
  },
  { $id: 'Error', title: 'Error' },
)

/** Refers to a shape registered by its `$id`; keeps its type. */
export const ref = <T extends TSchema>(schema: T) => Type.Unsafe<Static<T>>(Type.Ref(`${schema.$id}#`))

export const HealthSchema = Type.Object(
  {
    status: oneOf(['ok', 'unavailable']),
    reasons: Type.Array(Type.String(), { description: 'Why it is unavailable; empty if it is not.' }),
  },
  { $id: 'Health', title: 'Health' },
)

const REFUSALS = {
  400: 'The request breaks its schema; the message names the field and its index.',
  401: 'No or unknown credentials.',
  403: 'Known credentials that may not do this, or that speak for another workspace.',
  404: 'There is no such thing.',
  408: 'The request did not arrive in time.',
  409: 'Another snapshot is being taken. Retry-After says when to try again.',
  413: 'The body is over the limit, as sent or decompressed.',
  415: 'Unknown content type or encoding.',
  429: 'Too many batches from this credential. Retry-After says when to send again.',
  504: 'Only with ACK=durable, code OUTCOME_UNKNOWN: not committed in time, and will be counted all the same.',
  503: 'Overloaded, shutting down, or the database is away. Retry-After says when to try again.',
} as const

const RETRY_AFTER = {
  'Retry-After': { type: 'integer', description: 'Seconds to wait before trying again.' },
}

/** The responses of a route: its answer and its refusals, described. */
export function responses<S extends TSchema, N extends 200 | 202>(
  status: N,
  schema: S,
  description: string,
  ...refusals: (keyof typeof REFUSALS)[]
): Record<N, S> & { [code: number]: TSchema } {
  const entries = refusals.map((code) => [
    code,
    {
      ...ref(ErrorSchema),
      description: REFUSALS[code],
      ...(RETRIABLE.has(code) && { headers: RETRY_AFTER }),
    },
  ])
  return { [status]: { ...schema, description }, ...Object.fromEntries(entries) }
}

/** Registered by their `$id`. */
export const HTTP_SCHEMAS = [ErrorSchema, HealthSchema]
