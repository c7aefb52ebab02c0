// Distinct counts of several rows: the SQL that merges their sketches, and the count that follows from its result.

import { type SQL, sql } from 'drizzle-orm'
import { BUCKETS, estimate, RANKS } from '../counting/sketch.js'

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

/** Aggregates over a group of rows, as columns whose names begin with `prefix`. */
export function mergeColumns(prefix: string, count: SQL, sketch: SQL): SQL {
  const named = (name: string) => sql.identifier(`${prefix}_${name}`)
  return sql`bit_or(${sketch}) as ${named('sketch')},
    coalesce(max(${count}), 0) as ${named('largest')},
    coalesce(sum(${count}), 0) as ${named('summed')},
    coalesce(sum(${count}) filter (where ${sketch} is null), 0) as ${named('unsketched')}`
}

/** The columns of mergeColumns() as one JSON object. */
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
 * The distinct count over all merged rows: the estimate of the merged sketch, clamped between the largest and the sum
 * of the rows' own counts. It is exact if one row contains all ids, and never exceeds the plain sum. Rows without a
 * sketch are assumed to share no id with other rows.
 */
export function distinctCount({ column_sums, largest, summed, unsketched }: Merged): number {
  const estimated = (column_sums ? estimate(column_sums) : 0) + unsketched
  return Math.max(largest, Math.min(summed, estimated))
}
