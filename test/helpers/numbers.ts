// Numbers of sessions as tests write them, and as runs.

import { DECISIONS, type Decision, type Runs } from '../../src/ingest/runs.js'

/** By decision: ascending, disjoint, non-adjacent intervals, flat: [first, end, first, end …), end exclusive. */
export type Numbers = Partial<Record<Decision, readonly number[]>>

/** The intervals of some numbers, in any order. */
function intervalsOf(numbers: Iterable<number>): number[] {
  const intervals: number[] = []
  for (const number of [...new Set(numbers)].sort((a, b) => a - b))
    if (intervals.at(-1) === number) intervals[intervals.length - 1] = number + 1
    else intervals.push(number, number + 1)
  return intervals
}

/** The numbers of some intervals. */
export function numbersOf(intervals: readonly number[]): number[] {
  const numbers: number[] = []
  for (let i = 0; i < intervals.length; i += 2)
    for (let number = intervals[i] ?? 0; number < (intervals[i + 1] ?? 0); number++) numbers.push(number)
  return numbers
}

/** One list of the intervals of all decisions, each with its decision. */
export function runsOf(numbers: Numbers): Runs {
  const runs = DECISIONS.flatMap((decision, index) => {
    const intervals = numbers[decision] ?? []
    return intervals.flatMap((first, n) => (n % 2 === 0 ? [[first, intervals[n + 1] ?? first, index]] : []))
  })
  return runs.sort(([a = 0], [b = 0]) => a - b).flat()
}

/** What a batch says of some logs, which are numbers with their decisions. */
export function batchOf(logs: ReadonlyMap<number, Decision>): {
  allowed: number
  denied: number
  numbers: Numbers
} {
  const of = (decision: Decision) => [...logs].filter(([, d]) => d === decision).map(([number]) => number)
  const [allowed, denied, skipped] = [of('allowed'), of('denied'), of('skipped')]
  return {
    allowed: allowed.length,
    denied: denied.length,
    numbers: { allowed: intervalsOf(allowed), denied: intervalsOf(denied), skipped: intervalsOf(skipped) },
  }
}
