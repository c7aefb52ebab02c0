// Schemas of /telemetry: each is validator, type, serializer and OpenAPI component.

import { Type } from '@sinclair/typebox'
import { DELIVERY_STATES, TRIGGERS } from '../database/schema.js'
import { count, id, nullable, oneOf, ref, time } from '../http/schemas.js'
import { UNITS } from './calendar.js'
import { MAX_REPLICAS, REPLICA_STATES, type SnapshotDelivery } from './history.js'

/** The maximum number of snapshots on a page. */
export const MAX_SNAPSHOTS = 1_000
/** The maximum number of buckets of a range. */
export const MAX_BUCKETS = 10_000

/** The figures of sessions, in snapshots and in ranges of them. */
const sessionCounts = {
  duplicate_requests: count('Logs of sessions that arrived again; not counted again.'),
  missing_requests: count(
    'Logs first reported as missing: numbers that a session skipped and that did not arrive.',
  ),
  recovered_requests: count('Logs that an earlier period reported as missing and that arrived after all.'),
}

export const SnapshotSchema = Type.Object(
  {
    id: id('Identifies the snapshot.'),
    trigger: oneOf(TRIGGERS),
    reported_by: id('The replica that took the snapshot.'),
    replicas: count('Replicas that reported usage in the period.'),
    period_start: time('Start of the period: the end of the previous one.'),
    period_end: time('End of the period, and start of the next one.'),
    period_duration_ms: count('From period_start to period_end, in milliseconds.'),
    taken_at: time("When the snapshot was taken, by the database's clock."),
    unique_workspaces: count('Distinct workspaces.'),
    unique_users: count('Distinct users.'),
    unique_workspaces_summed: count("Sum of the replicas' own distinct counts."),
    unique_users_summed: count("Sum of the replicas' own distinct counts."),
    allowed_requests: count('Allowed requests.'),
    denied_requests: count('Denied requests.'),
    ...sessionCounts,
    late_replicas: nullable(
      count(
        'Live replicas that had not reported up to period_end: 0 means that the period boundary is exact. Null if the ' +
          'version that took the snapshot did not check.',
      ),
    ),
  },
  { $id: 'Snapshot', title: 'Snapshot' },
)

/** What a snapshot of the current period would be. */
export const SnapshotPreviewSchema = Type.Object(
  {
    ...SnapshotSchema.properties,
    id: Type.Null({ description: 'A preview is not recorded.' }),
    period_end: time('The time for which the preview is true.'),
  },
  { $id: 'SnapshotPreview', title: 'SnapshotPreview' },
)

/** A recorded snapshot with the state of its delivery. */
export const RecordedSnapshotSchema = Type.Object(
  {
    ...SnapshotSchema.properties,
    delivery: Type.Unsafe<SnapshotDelivery | null>({
      ...Type.Object(
        {
          state: oneOf(DELIVERY_STATES),
          attempts: count('Attempts since the snapshot was taken or last redelivered.'),
          due_at: nullable(time('When the next attempt is due; null if there will be none.')),
          delivered_at: nullable(time('When the sink accepted the snapshot.')),
          error: nullable(
            Type.String({ description: 'Why the last attempt failed.', examples: ['status 500'] }),
          ),
        },
        { description: 'Null if there was no sink when the snapshot was taken.' },
      ),
      type: ['object', 'null'],
    }),
  },
  { $id: 'RecordedSnapshot', title: 'RecordedSnapshot' },
)

export const SnapshotIdSchema = Type.Object({ id: Type.String({ format: 'uuid' }) })

export const SnapshotListSchema = Type.Object(
  {
    snapshots: Type.Array(ref(RecordedSnapshotSchema), {
      maxItems: MAX_SNAPSHOTS,
      description: 'Newest first.',
    }),
    next: nullable(time('Value of `before` for the next page; null on the last page.')),
  },
  { $id: 'SnapshotList', title: 'SnapshotList' },
)

const usage = {
  snapshots: count('Snapshots whose period ended in this time.'),
  unique_workspaces: count('Distinct workspaces; one that is in several snapshots counts once.'),
  unique_users: count('Distinct users; one who is in several snapshots counts once.'),
  new_workspaces: nullable(count('Workspaces that are in no earlier day on record; null by hour.')),
  new_users: nullable(count('Users who are in no earlier day on record; null by hour.')),
  new_workspaces_error: nullable(
    count('Standard error of new_workspaces, as for new_users_error; null by hour.'),
  ),
  new_users_error: nullable(
    count(
      'Standard error of new_users. After 100,000 users it is 10 for up to 10 new ones, and 97 for 1,000. Null by hour.',
    ),
  ),
  allowed_requests: count('Allowed requests.'),
  denied_requests: count('Denied requests.'),
  ...sessionCounts,
}

export const UsageSchema = Type.Object(
  {
    from: time('Includes periods that ended after this time.'),
    to: time('Includes periods that ended at or before this time.'),
    by: oneOf(UNITS),
    total: Type.Object(usage),
    buckets: Type.Array(
      Type.Object({
        start: time('Start of the bucket.'),
        end: time('End of the bucket, and start of the next.'),
        ...usage,
      }),
      { maxItems: MAX_BUCKETS, description: 'Oldest first, without gaps.' },
    ),
  },
  { $id: 'Usage', title: 'Usage' },
)

export const ReplicaListSchema = Type.Object(
  {
    replicas: Type.Array(
      Type.Object(
        {
          replica_id: id('A new UUID for every process start.'),
          name: Type.String({ description: 'REPLICA_NAME of the process.', examples: ['boundary-usage-0'] }),
          version: Type.String({ examples: ['0.2.0'] }),
          started_at: time('When the replica registered.'),
          last_flush_at: nullable(time('Null before the first flush.')),
          seen_at: nullable(time('The last heartbeat; null for a version that sends none.')),
          state: oneOf(REPLICA_STATES),
          reporting: Type.Boolean({ description: 'Whether it has flushed usage of the current period.' }),
        },
        { title: 'Replica' },
      ),
      { maxItems: MAX_REPLICAS, description: 'Oldest first: the newest, if there are more.' },
    ),
  },
  { $id: 'ReplicaList', title: 'ReplicaList' },
)

/** Schemas that are registered under their `$id`. */
export const SNAPSHOT_SCHEMAS = [
  SnapshotSchema,
  SnapshotPreviewSchema,
  RecordedSnapshotSchema,
  SnapshotListSchema,
  UsageSchema,
  ReplicaListSchema,
]
