// What a batch comes to, in the plainest way: by filters and sets.

import type { Batch } from '../../src/ingest/batch.js'

const MAX_NUMBER = Number.MAX_SAFE_INTEGER - 1

interface Log {
  allowed?: boolean
  sequence_number?: number
  http_request?: object
}

/** Undefined if the session cannot have these numbers. */
export function summarize(
  ids: Pick<Batch, 'workspaceId' | 'ownerId' | 'sessionId'>,
  logs: Log[],
): Batch | undefined {
  const known = logs.filter((log) => log.http_request)
  const decisions = {
    allowed: known.filter((log) => log.allowed),
    denied: known.filter((log) => !log.allowed),
    skipped: logs.filter((log) => !log.http_request),
  }
  const batch = {
    ...ids,
    allowed: decisions.allowed.length,
    denied: decisions.denied.length,
    skipped: decisions.skipped.length,
  }
  if (ids.sessionId === undefined) return { ...batch, numbers: undefined }
  const numbers = numbersOf(logs)
  if (numbers.size < logs.length) return undefined
  if (![...numbers].every((number) => number >= 0 && number <= MAX_NUMBER)) return undefined
  return {
    ...batch,
    numbers: [decisions.allowed, decisions.denied, decisions.skipped]
      .flatMap((logs, decision) => runs(numbersOf(logs), decision))
      .sort(([a = 0], [b = 0]) => a - b)
      .flat(),
  }
}

function numbersOf(logs: Log[]): Set<number> {
  return new Set(logs.map(({ sequence_number = Number.NaN }) => sequence_number))
}

function runs(numbers: Set<number>, decision: number): number[][] {
  const sorted = [...numbers].sort((a, b) => a - b)
  const ends = sorted.filter((number) => !numbers.has(number + 1)).map((number) => number + 1)
  return sorted
    .filter((number) => !numbers.has(number - 1))
    .map((first, index) => [first, ends[index] ?? first, decision])
}
