// How the sequence numbers of a session's logs are written, from the reader of a batch to its flush.

export const DECISIONS = ['allowed', 'denied', 'skipped'] as const
export type Decision = (typeof DECISIONS)[number]
export const ALLOWED = DECISIONS.indexOf('allowed')
export const DENIED = DECISIONS.indexOf('denied')
export const SKIPPED = DECISIONS.indexOf('skipped')

/**
 * Numbers with their decisions as runs, flat: [first, end, decision, first, end, decision …), `end` exclusive, `decision`
 * an index of DECISIONS. Ascending and disjoint; adjacent runs differ in their decision.
 */
export type Runs = readonly number[]
