// Distinct counts of merged rows: the SQL that merges their sketches, and what is made of its answer.

import { type SQL, sql } from 'drizzle-orm'
import { BUCKETS, estimate, RANKS } from '../counting/sketch.js'

/** What a merge of some rows says of one kind of ids. */
export interface Merged {
  /** Of the merged sketch; null if no row had one. */
  column_sums: number[] | null
  /** The largest of the rows' own counts, and the sum of them all. */
  largest: number
  summed: number
  /** The sum of those that have no sketch: rows of a version that had none. */
  unsketched: number
}

/** The aggregates over a group of rows, as columns that begin with `prefix`. */
export function mergeColumns(prefix: string, count: SQL, sketch: SQL): SQL {
  const named = (name: string) => sql.identifier(`${prefix}_${name}`)
  return sql`bit_or(${sketch}) as ${named('sketch')},
    coalesce(max(${count}), 0) as ${named('largest')},
    coalesce(sum(${count}), 0) as ${named('summed')},
    coalesce(sum(${count}) filter (where ${sketch} is null), 0) as ${named('unsketched')}`
}

/** What mergeColumns made, as one JSON object of the shape of Merged. */
export function mergedJson(prefix: string): SQL<Merged> {
  const named = (name: string) => sql.identifier(`${prefix}_${name}`)
  return sql<Merged>`json_build_object(
    'column_sums', case when ${named('sketch')} is not null then array(
      select bit_count(substring(${named('sketch')} from rank * ${BUCKETS}::int + 1 for ${BUCKETS}::int))
      from generate_series(0, ${RANKS - 1}::int) as rank order by rank) end,
    'largest', ${named('largest')},
    'summed', ${named('summed')},
    'unsketched', ${named('unsketched')})`
}

/**
 * The distinct count over all merged rows: the estimate of their merged sketch, held between the largest of their
 * own counts and the sum of these. So it is exact where one row has all, and never more than the plain sum. Rows
 * without a sketch count as if nobody in them were in another.
 */
export function distinctCount({ column_sums, largest, summed, unsketched }: Merged): number {
  const estimated = (column_sums ? estimate(column_sums) : 0) + unsketched
  return Math.max(largest, Math.min(summed, estimated))
}
