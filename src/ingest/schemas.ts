// Schemas of POST /boundary/logs: each serves as validator, type and OpenAPI component.

import { Type } from '@sinclair/typebox'
import { count, id } from '../http/schemas.js'
import type { Batch } from './batch.js'

const BoundaryLogSchema = Type.Object(
  {
    allowed: Type.Boolean({ description: 'Whether the boundary allowed the request.' }),
    time: Type.Optional(Type.String({ format: 'date-time', description: 'Time of the decision, RFC 3339.' })),
    sequence_number: Type.Optional(
      Type.Integer({
        description:
          'Required with a session_id: from 0 to 2^53 - 2, and different for each log of the batch. ' +
          'Ignored without one.',
      }),
    ),
    http_request: Type.Optional(
      Type.Object(
        {
          method: Type.String({ examples: ['GET'] }),
          url: Type.String({ examples: ['https://example.com/'] }),
          matched_rule: Type.Optional(Type.String({ examples: ['domain=example.com'] })),
        },
        { description: 'The resource. A log without a resource that this version knows is skipped.' },
      ),
    ),
  },
  { title: 'BoundaryLog', description: 'One allow or deny decision. Unknown fields are ignored.' },
)

/** The maximum number of logs in a batch. */
export const MAX_LOGS = 1_000

export const BatchSchema = Type.Object(
  {
    workspace_id: Type.Optional(id("The workspace. Required unless the agent's JWT contains it.")),
    owner_id: Type.Optional(id("The workspace's owner. Required unless the agent's JWT contains it.")),
    session_id: Type.Optional(id('The boundary session.')),
    confined_process_name: Type.Optional(Type.String({ examples: ['agent'] })),
    logs: Type.Array(BoundaryLogSchema, { maxItems: MAX_LOGS }),
  },
  { $id: 'Batch', title: 'Batch', description: 'Accepted as a whole or not at all.' },
)

export const IdentityHeadersSchema = Type.Object({
  'X-Workspace-Id': Type.Optional(
    id('The workspace. Required for a protobuf batch with a token that is not a JWT.'),
  ),
  'X-Owner-Id': Type.Optional(
    id("The workspace's owner. Required for a protobuf batch with a token that is not a JWT."),
  ),
})

export const ProtobufBatchSchema = Type.Unsafe<Batch>(
  Type.String({
    $id: 'ProtobufBatch',
    title: 'ProtobufBatch',
    format: 'binary',
    description:
      'The message BoundaryLogs of openapi/boundary-logs.proto. The JWT, or the headers X-Workspace-Id and ' +
      'X-Owner-Id, identify the workspace and its owner.',
  }),
)

export const AcceptedSchema = Type.Object(
  {
    allowed: count('Logs counted as allowed.'),
    denied: count('Logs counted as denied.'),
    skipped: count('Logs without a resource that this version knows, which are not counted.'),
  },
  { $id: 'Accepted', title: 'Accepted' },
)

/** Registered by their `$id`. */
export const INGEST_SCHEMAS = [BatchSchema, ProtobufBatchSchema, AcceptedSchema]
