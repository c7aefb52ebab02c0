// The days: each one's snapshots, merged once, so that usage over months reads a row per day.

import { type SQL, sql } from 'drizzle-orm'
import { MAX_SUM } from '../counting/ledger.js'
import type { Executor } from '../database/client.js'
import { KINDS, mergedColumns, mergeMerged, rowColumns } from './merge.js'

const REQUESTS = ['allowed_requests', 'denied_requests', 'duplicate_requests', 'recovered_requests']
const SUMS = ['snapshots', ...REQUESTS]

/** Columns of a UNION match by position, so all lists have the same order: sums, missing requests, merged columns. */
const list = (names: string[]): SQL => sql.join(names.map(sql.identifier), sql`, `)

/** The columns of telemetry_days, but for the day. */
export const dayColumns = list([...SUMS, 'missing_requests', ...KINDS.flatMap(mergedColumns)])

/** A row of telemetry_snapshots in these columns. */
export const snapshotAsDay = sql`1 as snapshots, ${list([...REQUESTS, 'missing_requests'])},
  ${rowColumns('workspaces', sql`unique_workspaces`, sql`workspaces_sketch`)},
  ${rowColumns('users', sql`unique_users`, sql`users_sketch`)}`

/** Aggregates rows with these columns into the same columns. */
export const mergeDays = sql.join(
  [
    ...SUMS.map((name) => sql`coalesce(sum(${sql.identifier(name)}), 0) as ${sql.identifier(name)}`),
    sql`least(coalesce(sum(missing_requests), 0), ${MAX_SUM}) as missing_requests`,
    ...KINDS.map(mergeMerged),
  ],
  sql`, `,
)

/** The day of the period that ends at `end`, in UTC: a period that ends at midnight belongs to the day before. */
export const dayOf = (end: SQL): SQL => sql`((${end} - interval '1 millisecond') at time zone 'UTC')::date`

/** So many take about ten milliseconds. Flushes of the embedded PostgreSQL wait for them, and so does a snapshot. */
const STEP_SNAPSHOTS = 50

/**
 * Claims snapshots that are not in their day yet and merges them: the one with this id, or else the oldest ones, at
 * most STEP_SNAPSHOTS. Returns how many.
 *
 * Claim and merge are one statement, so a snapshot is in its day once. Replicas that do this at the same time skip each
 * other's snapshots and lock days in order. A reader sees a snapshot either in its day or as not merged.
 */
export async function mergeIntoDays(db: Executor, id?: string): Promise<number> {
  const oldest = sql`id in (
    select id from telemetry_snapshots where not in_days
    order by period_end limit ${STEP_SNAPSHOTS} for update skip locked)`
  const [row] = await db.execute<{ snapshots: number }>(sql`
    with claimed as (
      update telemetry_snapshots set in_days = true
      where ${id === undefined ? oldest : sql`id = ${id}::uuid and not in_days`}
      returning *
    ), merged as (
      select ${dayOf(sql`period_end`)} as day, ${mergeDays}
      from (select period_end, ${snapshotAsDay} from claimed) as snapshots
      group by day order by day
    ), recorded as (
      insert into telemetry_days as recorded (day, ${dayColumns})
      select day, ${dayColumns} from merged order by day
      on conflict (day) do update set ${addExcluded}
    )
    select count(*)::int as snapshots from claimed`)
  return row?.snapshots ?? 0
}

/** Adds the row that was to be inserted to the day's row, which is called `recorded`. */
const addExcluded = sql.join(
  [
    ...SUMS.map((name) => added(name, (a, b) => sql`${a} + ${b}`)),
    added('missing_requests', (a, b) => sql`least(${a} + ${b}, ${MAX_SUM})`),
    ...KINDS.flatMap((kind) => [
      // A sketch that gains no bit is not written anew.
      added(
        `${kind}_sketch`,
        (a, b) => sql`case when ${a} | ${b} = ${a} then ${a} else coalesce(${a} | ${b}, ${a}, ${b}) end`,
      ),
      added(`${kind}_largest`, (a, b) => sql`greatest(${a}, ${b})`),
      added(`${kind}_summed`, (a, b) => sql`${a} + ${b}`),
      added(`${kind}_unsketched`, (a, b) => sql`${a} + ${b}`),
    ]),
  ],
  sql`, `,
)

function added(name: string, add: (recorded: SQL, excluded: SQL) => SQL): SQL {
  const column = sql.identifier(name)
  return sql`${column} = ${add(sql`recorded.${column}`, sql`excluded.${column}`)}`
}
