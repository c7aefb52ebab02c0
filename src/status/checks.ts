// The status checks: what needs attention, each in one sentence with its figures.

import type { Figures } from './figures.js'
import { CHECKS, type CheckName, type Status } from './schemas.js'

/** What this replica knows without the database. */
export interface Own {
  name: string
  /** Why it is not ready; empty if it is. */
  notReady: string[]
  /** Requests that are not in the database yet, and the age of the oldest one. */
  unflushedRequests: number
  unflushedAgeMs: number
  flushIntervalMs: number
  hasSink: boolean
}

/** The figures and how long reading them took, or why they cannot be read. */
export type Reading = { figures: Figures; ms: number } | { error: string }

type Finding = [ok: boolean, message: string]

/** As the alert BoundaryUsageUnflushed, but no sooner than a retry may take. */
const STALE_INTERVALS = 5
const SHORTEST_STALE_MS = 10_000
/** As the alert BoundaryUsageLogsMissing: a boundary that is killed loses a few logs. */
const MISSING_SHARE = 0.01

/** Evaluates every check. */
export function evaluate(own: Own, reading: Reading): Status {
  const findings: Record<CheckName, Finding> =
    'error' in reading
      ? {
          database: [false, sentence(reading.error)],
          flushes: checkFlushes(own),
          replicas: own.notReady.length > 0 ? notReady(own) : UNKNOWN,
          deliveries: own.hasSink ? UNKNOWN : NO_SINK,
          missing_logs: UNKNOWN,
          late_replicas: UNKNOWN,
        }
      : {
          database: [true, `The database responded in ${inWords(reading.ms)}.`],
          flushes: checkFlushes(own),
          replicas: checkReplicas(own, reading.figures.replicas),
          deliveries: own.hasSink ? checkDeliveries(reading.figures.deliveries) : NO_SINK,
          missing_logs: checkMissing(reading.figures.snapshots),
          late_replicas: checkLate(reading.figures.snapshots),
        }
  const checks = CHECKS.map((name) => {
    const [ok, message] = findings[name]
    return { name, ok, message, runbook: `docs/operating.md#check-${name}` }
  })
  return { ok: checks.every(({ ok }) => ok), checks }
}

const UNKNOWN: Finding = [false, 'Unknown while the database is unavailable.']
const NO_SINK: Finding = [true, 'No sink is configured, so nothing is delivered.']
const NO_SNAPSHOT: Finding = [true, 'No snapshot has been taken yet.']

function checkFlushes({ name, unflushedRequests, unflushedAgeMs, flushIntervalMs }: Own): Finding {
  const isStale = unflushedAgeMs > Math.max(STALE_INTERVALS * flushIntervalMs, SHORTEST_STALE_MS)
  const interval = `it flushes every ${inWords(flushIntervalMs)}`
  if (unflushedAgeMs === 0) return [true, `This replica (${name}) has flushed all usage; ${interval}.`]
  return [
    !isStale,
    `This replica (${name}) has not flushed ${counted(unflushedRequests, 'request')}, ` +
      `the oldest ${inWords(unflushedAgeMs)} old; ${interval}.`,
  ]
}

function checkReplicas(
  own: Own,
  { live, silent, silent_names, silent_for_ms }: Figures['replicas'],
): Finding {
  if (own.notReady.length > 0) return notReady(own)
  if (silent === 0)
    return [true, `${counted(live, 'replica')} ${be(live)} live, and this one (${own.name}) is ready.`]
  const names = silent_names.join(', ') + (silent > silent_names.length ? ', …' : '')
  return [
    false,
    `${counted(silent, 'replica')} ${be(silent)} silent (${names}), the last heartbeat ${inWords(silent_for_ms ?? 0)} ago; ` +
      `${counted(live, 'replica')} ${be(live)} live.`,
  ]
}

function notReady({ name, notReady: reasons }: Own): Finding {
  return [false, `This replica (${name}) is not ready: ${reasons.join('; ')}.`]
}

function checkDeliveries({ pending, overdue, dead, error }: Figures['deliveries']): Finding {
  const cause = error === null ? '' : ` (${error})`
  if (dead > 0)
    return [
      false,
      `${counted(dead, 'delivery', 'deliveries')} of the last 30 days ${be(dead)} dead${cause}, and ${number(pending)} ` +
        `${be(pending)} pending.`,
    ]
  if (overdue > 0)
    return [
      false,
      `${counted(overdue, 'delivery', 'deliveries')} ${be(overdue)} overdue by over 15 min${cause}, of ${number(pending)} ` +
        'pending.',
    ]
  if (pending > 0) return [true, `${counted(pending, 'delivery', 'deliveries')} ${be(pending)} pending.`]
  return [true, 'All snapshots have been delivered.']
}

function checkMissing(snapshots: Figures['snapshots']): Finding {
  if (!snapshots) return NO_SNAPSHOT
  const { since_ms, requests, missing, recovered } = snapshots
  return [
    missing <= MISSING_SHARE * requests,
    `${counted(missing, 'log')} ${missing === 1 ? 'was' : 'were'} reported missing and ${number(recovered)} recovered in the last ${inWords(since_ms)}, ` +
      `with ${counted(requests, 'request')} counted.`,
  ]
}

function checkLate(snapshots: Figures['snapshots']): Finding {
  if (!snapshots) return NO_SNAPSHOT
  const { since_ms, late_replicas: late } = snapshots
  if (late === null)
    return [true, 'The version that took the last snapshot did not check whether replicas were late.']
  if (late === 0) return [true, `No replica was late at a snapshot of the last ${inWords(since_ms)}.`]
  return [
    false,
    `${counted(late, 'replica')} ${late === 1 ? 'was' : 'were'} late at a snapshot of the last ${inWords(since_ms)}: ` +
      'what they held counts in the next period.',
  ]
}

/** Begins with a capital letter and ends with a full stop. */
function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${text.endsWith('.') ? '' : '.'}`
}

const number = (n: number) => n.toLocaleString('en-US')

function counted(n: number, one: string, many = `${one}s`): string {
  return `${number(n)} ${n === 1 ? one : many}`
}

const be = (n: number) => (n === 1 ? 'is' : 'are')

/** A duration in the largest unit of which there are at least two. */
function inWords(ms: number): string {
  if (ms < 2_000) return `${number(Math.max(1, Math.round(ms)))} ms`
  const units = [
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['min', 60_000],
  ] as const
  const [unit, size] = units.find(([, size]) => ms >= 2 * size) ?? ['s', 1_000]
  return `${number(Math.floor(ms / size))} ${unit}`
}
