// The shapes of the API, each named once: validator, type, serializer and OpenAPI component.

import { type Static, type TSchema, Type } from '@sinclair/typebox'
import type { WireBatch } from '../ingest/protobuf.js'
import { type SnapshotDelivery, UNITS, type Unit } from '../snapshots/history.js'
import { RETRIABLE } from './errors.js'

const id = (description: string) =>
  Type.String({ format: 'uuid', description, examples: ['0b5e9a1c-6a43-4d0c-8a35-0f2f4f1f7a10'] })

const time = (description: string) =>
  Type.Unsafe<Date>({
    type: 'string',
    format: 'date-time',
    description,
    examples: ['2026-01-31T12:30:00.000Z'],
  })

const count = (description: string) => Type.Integer({ minimum: 0, description, examples: [41] })

const nullable = <T extends TSchema>(schema: T) =>
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

const BoundaryLogSchema = Type.Object(
  {
    allowed: Type.Boolean({ description: 'Whether the boundary let the request pass.' }),
    time: Type.Optional(Type.String({ format: 'date-time', description: 'When it was decided, RFC 3339.' })),
    sequence_number: Type.Optional(Type.Integer({ description: "Place in the session's sequence." })),
    http_request: Type.Optional(
      Type.Object(
        {
          method: Type.String({ examples: ['GET'] }),
          url: Type.String({ examples: ['https://example.com/'] }),
          matched_rule: Type.Optional(Type.String({ examples: ['domain=example.com'] })),
        },
        { description: 'The resource. A log that has none this version knows is skipped.' },
      ),
    ),
  },
  { title: 'BoundaryLog', description: 'One allow or deny decision. Unknown fields are ignored.' },
)

/** The most logs one batch may hold. */
export const MAX_LOGS = 1_000

export const BatchSchema = Type.Object(
  {
    workspace_id: Type.Optional(id("The workspace; may be left out where the agent's JWT says it.")),
    owner_id: Type.Optional(id("The workspace's owner; may be left out where the agent's JWT says it.")),
    session_id: Type.Optional(id('The boundary session.')),
    confined_process_name: Type.Optional(Type.String({ examples: ['agent'] })),
    logs: Type.Array(BoundaryLogSchema, { maxItems: MAX_LOGS }),
  },
  { $id: 'Batch', title: 'Batch', description: 'Counts as a whole or not at all.' },
)

export const IdentityHeadersSchema = Type.Object({
  'X-Workspace-Id': Type.Optional(id('The workspace; for a protobuf batch beside a plain token.')),
  'X-Owner-Id': Type.Optional(id("The workspace's owner; for a protobuf batch beside a plain token.")),
})

export const ProtobufBatchSchema = Type.Unsafe<WireBatch>(
  Type.String({
    $id: 'ProtobufBatch',
    title: 'ProtobufBatch',
    format: 'binary',
    description:
      'The message BoundaryLogs of openapi/boundary-logs.proto. Whose logs they are is said by the JWT, or beside ' +
      'a plain token by the headers X-Workspace-Id and X-Owner-Id.',
  }),
)

export const AcceptedSchema = Type.Object(
  {
    allowed: count('Logs counted as allowed.'),
    denied: count('Logs counted as denied.'),
    skipped: count('Logs that carry no resource this version knows; not counted.'),
  },
  { $id: 'Accepted', title: 'Accepted' },
)

export const SnapshotSchema = Type.Object(
  {
    id: nullable(id('Null in a preview.')),
    trigger: Type.Unsafe<'manual' | 'schedule'>({ type: 'string', enum: ['manual', 'schedule'] }),
    reported_by: id('The replica that took it.'),
    replicas: count('Replicas that reported in the period.'),
    period_start: time('Where the period before ended.'),
    period_end: time('Where the period ended; now, in a preview.'),
    period_duration_ms: count('From period_start to period_end, in milliseconds.'),
    taken_at: time("When it was taken, by the database's clock."),
    unique_workspaces: count('Distinct workspaces.'),
    unique_users: count('Distinct users.'),
    unique_workspaces_summed: count("Sum of the replicas' own distinct counts."),
    unique_users_summed: count("Sum of the replicas' own distinct counts."),
    allowed_requests: count('Requests allowed.'),
    denied_requests: count('Requests denied.'),
  },
  { $id: 'Snapshot', title: 'Snapshot' },
)

/** A snapshot as it is recorded: with what became of its delivery. */
export const RecordedSnapshotSchema = Type.Object(
  {
    ...SnapshotSchema.properties,
    delivery: Type.Unsafe<SnapshotDelivery | null>({
      ...Type.Object(
        {
          state: Type.Unsafe<'pending' | 'delivered' | 'dead'>({
            type: 'string',
            enum: ['pending', 'delivered', 'dead'],
          }),
          attempts: count('Attempts so far.'),
          due_at: nullable(time('When the next attempt may be made; null when there is to be none.')),
          delivered_at: nullable(time('When the sink took it.')),
          error: nullable(
            Type.String({ description: 'Why the last attempt failed.', examples: ['status 500'] }),
          ),
        },
        { description: 'Null where there was no sink when it was taken.' },
      ),
      type: ['object', 'null'],
    }),
  },
  { $id: 'RecordedSnapshot', title: 'RecordedSnapshot' },
)

/** Refers to a shape registered by its `$id`; keeps its type. */
export const ref = <T extends TSchema>(schema: T) => Type.Unsafe<Static<T>>(Type.Ref(`${schema.$id}#`))

export const SnapshotListSchema = Type.Object(
  {
    snapshots: Type.Array(ref(RecordedSnapshotSchema), { description: 'Newest first.' }),
    next: nullable(time('The cursor for `before` that gives the page after this one; null on the last.')),
  },
  { $id: 'SnapshotList', title: 'SnapshotList' },
)

const usage = {
  snapshots: count('Snapshots whose period ended in it.'),
  unique_workspaces: count('Distinct workspaces, each counted once however many snapshots it is in.'),
  unique_users: count('Distinct users, each counted once however many snapshots they are in.'),
  allowed_requests: count('Requests allowed.'),
  denied_requests: count('Requests denied.'),
}

export const UsageSchema = Type.Object(
  {
    from: time('Periods that ended after it are in.'),
    to: time('Periods that ended at it or before are in.'),
    by: Type.Unsafe<Unit>({ type: 'string', enum: UNITS }),
    total: Type.Object(usage),
    buckets: Type.Array(
      Type.Object({
        start: time('Where the bucket starts.'),
        end: time('Where the next one starts.'),
        ...usage,
      }),
      { description: 'Oldest first, without gaps.' },
    ),
  },
  { $id: 'Usage', title: 'Usage' },
)

export const ReplicaListSchema = Type.Object(
  {
    replicas: Type.Array(
      Type.Object(
        {
          replica_id: id('Fresh for every process start.'),
          name: Type.String({ description: 'REPLICA_NAME of the process.', examples: ['boundary-usage-0'] }),
          version: Type.String({ examples: ['0.1.0'] }),
          started_at: time('When it registered.'),
          last_flush_at: nullable(time('Null until it has flushed.')),
        },
        { title: 'Replica' },
      ),
    ),
  },
  { $id: 'ReplicaList', title: 'ReplicaList' },
)

export const HealthSchema = Type.Object(
  {
    status: Type.Unsafe<'ok' | 'unavailable'>({ type: 'string', enum: ['ok', 'unavailable'] }),
    reasons: Type.Array(Type.String(), { description: 'Why it is unavailable; empty if it is not.' }),
  },
  { $id: 'Health', title: 'Health' },
)

export const SHARED = [
  ErrorSchema,
  BatchSchema,
  ProtobufBatchSchema,
  AcceptedSchema,
  SnapshotSchema,
  RecordedSnapshotSchema,
  SnapshotListSchema,
  UsageSchema,
  ReplicaListSchema,
  HealthSchema,
]

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
