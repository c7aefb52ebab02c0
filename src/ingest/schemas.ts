// Schemas of POST /boundary/logs: each is the contract, the type and the OpenAPI component.

import { Type } from '@sinclair/typebox'
import { count, id } from '../http/schemas.js'
import type { WireBatch } from './protobuf.js'

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

/** Registered by their `$id`. */
export const INGEST_SCHEMAS = [BatchSchema, ProtobufBatchSchema, AcceptedSchema]
