// Numbers of sessions as tests write them, and as runs.

import type { Decision, Numbers, Runs } from '../../src/counting/sessions.js'

/** The runs of some numbers, in any order. */
export function runsOf(numbers: Iterable<number>): number[] {
  const runs: number[] = []
  for (const number of [...new Set(numbers)].sort((a, b) => a - b))
    if (runs.at(-1) === number) runs[runs.length - 1] = number + 1
    else runs.push(number, number + 1)
  return runs
}

/** The numbers of some runs. */
export function numbersOf(runs: Runs): number[] {
  const numbers: number[] = []
  for (let i = 0; i < runs.length; i += 2)
    for (let number = runs[i] ?? 0; number < (runs[i + 1] ?? 0); number++) numbers.push(number)
  return numbers
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
    numbers: { allowed: runsOf(allowed), denied: runsOf(denied), skipped: runsOf(skipped) },
  }
}
