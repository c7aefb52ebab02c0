// The tables. Property names are the column names, so that rows go to JSON as they are.

import { sql } from 'drizzle-orm'
import {
  bigint,
  bit,
  check,
  customType,
  index,
  integer,
  pgTable,
  smallint,
  text,
  timestamp,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'

/** The size of a sketch, in bits: see src/counting/sketch.ts. */
const SKETCH_BITS = 196_608

/** Null in a row of a version that had no sketches: it counts with its own numbers. */
const sketch = () => bit({ dimensions: SKETCH_BITS })
const bytea = customType<{ data: Uint8Array }>({ dataType: () => 'bytea' })
export const TRIGGERS = ['manual', 'schedule'] as const
export const DELIVERY_STATES = ['pending', 'delivered', 'dead'] as const
const inList = (values: readonly string[]) => sql.raw(values.map((value) => `'${value}'`).join(', '))

const count = () => bigint({ mode: 'number' }).notNull()
const time = () => timestamp({ withTimezone: true, mode: 'date' })

/** The usage table: what each replica has flushed in the period in progress. At most one row per replica. */
export const boundaryUsageStats = pgTable('boundary_usage_stats', {
  replica_id: uuid().primaryKey(),
  unique_workspaces_count: count(),
  unique_users_count: count(),
  allowed_requests: count(),
  denied_requests: count(),
  /** The flush that inserted the row: how a replica learns that a snapshot has begun a new period. */
  first_flush_seq: count(),
  workspaces_sketch: sketch(),
  users_sketch: sketch(),
  window_start: time().notNull(),
  updated_at: time().notNull(),
})

/** Who is there, and the fence: how far each replica has flushed. */
export const boundaryUsageReplicas = pgTable('boundary_usage_replicas', {
  replica_id: uuid().primaryKey(),
  name: text().notNull(),
  version: text().notNull(),
  started_at: time().notNull(),
  last_flush_seq: count(),
  last_flush_at: time(),
})

/** One row per snapshot. `period_end` strictly increases, so it orders the history and is unique. */
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
    workspaces_sketch: sketch(),
    users_sketch: sketch(),
    /** Null where there was no sink when it was taken. */
    delivery_state: text({ enum: DELIVERY_STATES }),
    delivery_attempts: integer().notNull().default(0),
    /** While pending: when it may be tried again. An attempt under way has moved it on, in case it never ends. */
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
  ],
)

/** One row: what all replicas of the deployment share. */
export const settings = pgTable(
  'settings',
  {
    id: smallint().primaryKey().default(1),
    /** The key of the sketches' hash. Without it the sketches there are cannot be merged with new ones. */
    sketch_key: bytea().notNull(),
  },
  (table) => [check('settings_one_row_check', sql`${table.id} = 1`)],
)
