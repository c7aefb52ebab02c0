// Schemas of /telemetry: each is validator, type, serializer and OpenAPI component.

import { Type } from '@sinclair/typebox'
import { DELIVERY_STATES, TRIGGERS } from '../database/schema.js'
import { count, id, nullable, oneOf, ref, time } from '../http/schemas.js'
import { type SnapshotDelivery, UNITS } from './history.js'

export const SnapshotSchema = Type.Object(
  {
    id: nullable(id('Null in a preview.')),
    trigger: oneOf(TRIGGERS),
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
          state: oneOf(DELIVERY_STATES),
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

export const SnapshotIdSchema = Type.Object({ id: Type.String({ format: 'uuid' }) })

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
    by: oneOf(UNITS),
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

/** Registered by their `$id`. */
export const SNAPSHOT_SCHEMAS = [
  SnapshotSchema,
  RecordedSnapshotSchema,
  SnapshotListSchema,
  UsageSchema,
  ReplicaListSchema,
]
