// Distinct counts of several rows: the SQL that merges their sketches, and the counts that follow from its result.

import { type SQL, sql } from 'drizzle-orm'
import { BUCKETS, differenceError, estimate, RANKS } from '../counting/sketch.js'

/** The merge of several rows, for one kind of ids. */
export interface Merged {
  /** The merged sketch's bits per rank; null if no row has a sketch. */
  column_sums: number[] | null
  /** The largest of the rows' own counts, and their sum. */
  largest: number
  summed: number
  /** The sum of the counts of rows without a sketch, which an older version wrote. */
  unsketched: number
}

/** What several rows of usage add up to. */
export interface MergedUsage {
  allowed_requests: number
  denied_requests: number
  duplicate_requests: number
  missing_requests: number
  recovered_requests: number
  workspaces: Merged
  users: Merged
}

/** The kinds of ids: the prefixes of their columns. */
export const KINDS = ['workspaces', 'users'] as const
export type Kind = (typeof KINDS)[number]

const PARTS = ['sketch', 'largest', 'summed', 'unsketched'] as const
type Parts = Record<(typeof PARTS)[number], SQL>

/** The columns that contain a Merged. */
export const mergedColumns = (kind: Kind): string[] => PARTS.map((part) => `${kind}_${part}`)

/** What a single row with its own count contributes. */
const partsOfRow = (count: SQL, sketch: SQL): Parts => ({
  sketch,
  largest: count,
  summed: count,
  unsketched: sql`case when ${sketch} is null then ${count} else 0 end`,
})

/** A single row in the columns of a Merged. */
export function rowColumns(kind: Kind, count: SQL, sketch: SQL): SQL {
  const parts = partsOfRow(count, sketch)
  return sql.join(
    PARTS.map((part) => sql`${parts[part]} as ${named(kind, part)}`),
    sql`, `,
  )
}

/** Aggregates over a group of rows with counts of their own, as the columns of a Merged. */
export const mergeColumns = (kind: Kind, count: SQL, sketch: SQL): SQL =>
  aggregates(kind, partsOfRow(count, sketch))

/** Aggregates over a group of rows with the columns of a Merged. */
export function mergeMerged(kind: Kind): SQL {
  const [sketch, largest, summed, unsketched] = [
    named(kind, 'sketch'),
    named(kind, 'largest'),
    named(kind, 'summed'),
    named(kind, 'unsketched'),
  ]
  return aggregates(kind, { sketch, largest, summed, unsketched })
}

/**
 * The aggregate of a single row is that row's value, a reference to what is stored compressed; each use would read that
 * again. The shift by 0 reads it once.
 */
function aggregates(kind: Kind, { sketch, largest, summed, unsketched }: Parts): SQL {
  return sql`bit_or(${sketch}) << 0 as ${named(kind, 'sketch')},
    coalesce(max(${largest}), 0) as ${named(kind, 'largest')},
    coalesce(sum(${summed}), 0) as ${named(kind, 'summed')},
    coalesce(sum(${unsketched}), 0) as ${named(kind, 'unsketched')}`
}

const named = (kind: Kind, part: string): SQL => sql`${sql.identifier(`${kind}_${part}`)}`

/** The columns of a Merged as one JSON object. */
export function mergedJson(kind: Kind): SQL<Merged> {
  return sql<Merged>`json_build_object(
    'column_sums', ${columnSums(named(kind, 'sketch'))},
    'largest', ${named(kind, 'largest')},
    'summed', ${named(kind, 'summed')},
    'unsketched', ${named(kind, 'unsketched')})`
}

/** The sketch's bits per rank, as an array; null without a sketch. */
export function columnSums(sketch: SQL): SQL {
  return sql`case when ${sketch} is not null then array(
      select bit_count(substring(${sketch} from rank * ${BUCKETS}::int + 1 for ${BUCKETS}::int))
      from generate_series(0, ${RANKS - 1}::int) as rank order by rank) end`
}

/**
 * The distinct count over all merged rows: the estimate of the merged sketch, clamped between the largest and the sum
 * of the rows' own counts. It is exact if one row contains all ids, and never exceeds the plain sum. Rows without a
 * sketch are assumed to share no id with other rows.
 */
export function distinctCount({ column_sums, largest, summed, unsketched }: Merged): number {
  const estimated = (column_sums ? estimate(column_sums) : 0) + unsketched
  return Math.max(largest, Math.min(summed, estimated))
}

/** The ids of a time that are in no earlier day, and the standard error of that number. */
export interface NewIds {
  count: number
  error: number
}

/**
 * The ids of `merged` that are in no earlier day: what they add to the estimate of the earlier days' sketches (`before`,
 * null without any), which becomes `after`. Clamped between 0 and the distinct count. Rows without a sketch are assumed
 * to share no id with other rows.
 */
export function newIds(merged: Merged, before: number | null, after: number | null): NewIds {
  const distinct = distinctCount(merged)
  const added = (after ?? 0) - (before ?? 0) + merged.unsketched
  const count = before ? Math.max(0, Math.min(distinct, added)) : distinct
  return { count, error: Math.round(differenceError(before ?? 0, count)) }
}
