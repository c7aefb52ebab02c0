// The tables. Properties are named like their columns, so that rows are serialized without renaming.

import { sql } from 'drizzle-orm'
import {
  bigint,
  bit,
  boolean,
  check,
  customType,
  date,
  index,
  integer,
  pgTable,
  smallint,
  text,
  timestamp,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'

/** Bits of a sketch, as defined in src/counting/sketch.ts. */
const SKETCH_BITS = 196_608

/** Null in rows of a version without sketches: they count with their plain counts. */
const sketch = () => bit({ dimensions: SKETCH_BITS })
const bytea = customType<{ data: Uint8Array }>({ dataType: () => 'bytea' })
const int8multirange = customType<{ data: string }>({ dataType: () => 'int8multirange' })
export const TRIGGERS = ['manual', 'schedule'] as const
export const DELIVERY_STATES = ['pending', 'delivered', 'dead'] as const
const inList = (values: readonly string[]) => sql.raw(values.map((value) => `'${value}'`).join(', '))

const count = () => bigint({ mode: 'number' }).notNull()
const time = () => timestamp({ withTimezone: true, mode: 'date' })

/** The usage table: what each replica has flushed in the current period. At most one row per replica. */
export const boundaryUsageStats = pgTable('boundary_usage_stats', {
  replica_id: uuid().primaryKey(),
  unique_workspaces_count: count(),
  unique_users_count: count(),
  allowed_requests: count(),
  denied_requests: count(),
  duplicate_requests: count().default(0),
  /** The numbers of closed holes that no snapshot had reported. */
  missing_requests: count().default(0),
  recovered_requests: count().default(0),
  /** The flush that inserted the row, which tells its replica that a snapshot has begun a new period. */
  first_flush_seq: count(),
  workspaces_sketch: sketch(),
  users_sketch: sketch(),
  window_start: time().notNull(),
  updated_at: time().notNull(),
})

/** Registered replicas, and the fence: the last flush applied for each. */
export const boundaryUsageReplicas = pgTable('boundary_usage_replicas', {
  replica_id: uuid().primaryKey(),
  name: text().notNull(),
  version: text().notNull(),
  started_at: time().notNull(),
  last_flush_seq: count(),
  last_flush_at: time(),
  /** All that the replica counted before this moment is in the database. Null for a version that does not report it. */
  reported_until: time(),
  /** The last heartbeat. */
  seen_at: time(),
  /** When the process ended as asked, with nothing left to flush. */
  stopped_at: time(),
  /** False for a version without a ledger: which numbers it counted is not known. */
  has_ledger: boolean().notNull().default(false),
})

/** The ledger: which numbers of each session have been counted. */
export const boundaryUsageSessions = pgTable(
  'boundary_usage_sessions',
  {
    /** A keyed hash of workspace and session. */
    session_key: uuid().primaryKey(),
    /** The numbers that arrived, and those of closed holes. Stored uncompressed: compressing takes most of a flush. */
    received: int8multirange().notNull(),
    /** No number below it is ever reported missing. */
    counted_from: count().default(0),
    /** Snapshots have reported what was missing below it, but for `untold`. */
    told_to: count().default(0),
    /** Numbers below `told_to` that did not arrive and were not reported: below `counted_from`, or of jumps. */
    untold: int8multirange().notNull().default('{}'),
    /** Whether there are holes that no snapshot has examined. */
    has_new_holes: boolean().notNull().default(true),
    /** What the last flush added to the usage row. */
    added_allowed: count().default(0),
    added_denied: count().default(0),
    added_missing: count().default(0),
    added_recovered: count().default(0),
    /** To within a minute, so that most updates leave the index alone. */
    last_seen_at: time().notNull(),
  },
  (table) => [index('boundary_usage_sessions_seen_idx').on(table.has_new_holes, table.last_seen_at)],
)

/** One row per snapshot. `period_end` strictly increases: it is unique and orders the history. */
export const telemetrySnapshots = pgTable(
  'telemetry_snapshots',
  {
    id: uuid().primaryKey(),
    trigger: text({ enum: TRIGGERS }).notNull(),
    reported_by: uuid().notNull(),
    replicas: integer().notNull(),
    period_start: time().notNull(),
    period_end: time().notNull(),
    taken_at: time().notNull(),
    unique_workspaces: count(),
    unique_users: count(),
    unique_workspaces_summed: count(),
    unique_users_summed: count(),
    allowed_requests: count(),
    denied_requests: count(),
    duplicate_requests: count().default(0),
    missing_requests: count().default(0),
    recovered_requests: count().default(0),
    /** Live replicas that had not reported up to `period_end`. Null for a version that did not check. */
    late_replicas: integer(),
    workspaces_sketch: sketch(),
    users_sketch: sketch(),
    /** Whether it is merged into its day. */
    in_days: boolean().notNull().default(false),
    /** Null if there was no sink when the snapshot was taken. */
    delivery_state: text({ enum: DELIVERY_STATES }),
    delivery_attempts: integer().notNull().default(0),
    /** While pending: when the next attempt is due. During an attempt: when its lease ends. */
    delivery_due_at: time(),
    delivered_at: time(),
    delivery_error: text(),
  },
  (table) => [
    uniqueIndex('telemetry_snapshots_period_end_key').on(table.period_end),
    check('telemetry_snapshots_trigger_check', sql`${table.trigger} in (${inList(TRIGGERS)})`),
    check('telemetry_snapshots_period_check', sql`${table.period_start} <= ${table.period_end}`),
    check(
      'telemetry_snapshots_delivery_state_check',
      sql`${table.delivery_state} in (${inList(DELIVERY_STATES)})`,
    ),
    index('telemetry_snapshots_delivery_due_idx')
      .on(table.delivery_due_at)
      .where(sql`${table.delivery_state} = 'pending'`),
    index('telemetry_snapshots_not_in_days_idx').on(table.period_end).where(sql`not ${table.in_days}`),
  ],
)

/** One row per day: its snapshots, merged. The sketches are stored uncompressed, 48 KB a day. */
export const telemetryDays = pgTable('telemetry_days', {
  /** In UTC. A snapshot belongs to the day of the last millisecond of its period. */
  day: date({ mode: 'string' }).primaryKey(),
  snapshots: integer().notNull(),
  allowed_requests: count(),
  denied_requests: count(),
  duplicate_requests: count(),
  missing_requests: count(),
  recovered_requests: count(),
  workspaces_sketch: sketch(),
  /** The largest count of a snapshot, the sum of all, and the sum of those without a sketch. */
  workspaces_largest: count(),
  workspaces_summed: count(),
  workspaces_unsketched: count(),
  users_sketch: sketch(),
  users_largest: count(),
  users_summed: count(),
  users_unsketched: count(),
})

/** One row: what all replicas of a deployment share. */
export const boundaryUsageSettings = pgTable(
  'boundary_usage_settings',
  {
    id: smallint().primaryKey().default(1),
    /** The key of the sketches' hash. Only sketches with the same key can be merged. */
    sketch_key: bytea().notNull(),
  },
  (table) => [check('boundary_usage_settings_one_row_check', sql`${table.id} = 1`)],
)
