// A fleet of agents, each in a workspace with a boundary and a forwarder: people who come and go with the day, several
// workspaces each, sessions that end and start again.

import { randomInt, randomUUID } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pause } from '../../src/async.js'
import { startForwarder } from '../../src/forwarder/forwarder.js'
import { createLog } from '../../src/forwarder/log.js'
import { connectBoundary, envelopeFrame } from '../helpers/boundary.js'
import { openScope, type Scope } from '../helpers/scope.js'
import { makeLogs, pick } from './traffic.js'

/** A day of the demo: nights are quiet, not silent. */
const DAY_MS = 120_000
const NIGHT = 0.2
/** Between two frames of a boundary. A real one sends every 5 s at the latest. */
const PAUSE_MS = 500
const MEAN_LOGS = 5.5
/** An agent that has run wild makes its boundary send as fast as this. */
const WILD_PAUSE_MS = 10
const WILD_CHANCE = 0.001

/** The denied share of a session, but for the spikes: each lasts so long, the first one soon after the start. */
const DENIED = [0.01, 0.02, 0.03, 0.05]
export const SPIKE_FACTOR = 6
const SPIKE_EVERY_MS = 300_000
const FIRST_SPIKE_MS = 25_000
const SPIKE_MS = 60_000

/** What the boundaries have written to their sockets. */
export interface Written {
  frames: number
  allowed: number
  denied: number
  sessions: number
  active: Set<string>
}

export interface Workspace {
  workspaceId: string
  ownerId: string
  /** Names its socket. */
  name: string
  /** When its owner is there: from 0, always, to 1, only when all are. */
  hour: number
}

/** Makes a number of people, each with one to five workspaces. */
export function makeFleet(people: number): Workspace[] {
  return Array.from({ length: people }, (_, n) => {
    const ownerId = randomUUID()
    const count = pick([1, 1, 2, 3, 5])
    return Array.from({ length: count }, (_, w) => ({
      workspaceId: randomUUID(),
      ownerId,
      name: `${n}-${w}`,
      hour: n / people,
    }))
  }).flat()
}

/**
 * Runs the fleet against the service until `signal` ends it, and then until the forwarders have sent everything; rejects
 * at the first real error.
 */
export async function runFleet(
  url: string,
  fleet: readonly Workspace[],
  written: Written,
  signal: AbortSignal,
): Promise<void> {
  setMaxListeners(0, signal)
  const scope = openScope()
  try {
    const directory = await mkdtemp(join(tmpdir(), 'boundary-usage-'))
    scope.teardown(() => rm(directory, { recursive: true, force: true }))
    const began = performance.now()
    const elapsed = () => performance.now() - began
    const forwarders = await Promise.all(fleet.map((workspace) => forward(url, directory, workspace)))
    await Promise.all(
      fleet.map((workspace) => runBoundary(scope, directory, workspace, elapsed, written, signal)),
    )
    const ends = await Promise.all(forwarders.map((forwarder) => forwarder.stop()))
    const lost = ends.reduce((sum, end) => sum + end.lost, 0)
    if (lost > 0) throw new Error(`the service did not take ${lost} logs in time`)
  } finally {
    await scope.close()
  }
}

const socketOf = (directory: string, { name }: Workspace) => join(directory, `${name}.sock`)

/** In this process: a real one has a process of its own, which a hundred workspaces on one machine would be many of. */
function forward(url: string, directory: string, workspace: Workspace) {
  const { workspaceId, ownerId } = workspace
  return startForwarder(
    {
      urls: [new URL(url)],
      socket: socketOf(directory, workspace),
      socketMode: 0o600,
      token: undefined,
      tokenFile: undefined,
      ids: { workspaceId, ownerId },
      spool: undefined,
      spoolLimit: 2 ** 20,
      tee: undefined,
      logLevel: 'silent',
    },
    createLog('silent'),
  )
}

async function runBoundary(
  scope: Scope,
  directory: string,
  workspace: Workspace,
  elapsed: () => number,
  written: Written,
  signal: AbortSignal,
): Promise<void> {
  const { workspaceId, hour } = workspace
  const activity = () => activityAt(elapsed())
  const rest = (ms: number) => pause(ms * (0.5 + Math.random()), { signal })

  while (!signal.aborted) {
    await rest(PAUSE_MS)
    if (activity() < hour) continue
    written.sessions++
    written.active.add(workspaceId)
    const boundary = await connectBoundary(scope, socketOf(directory, workspace))
    const session_id = randomUUID()
    const denied = pick(DENIED)
    let sequence = 0
    let isWild = false
    // Until its person leaves, or the boundary is restarted.
    while (!signal.aborted && activity() >= hour && Math.random() > 0.02) {
      if (Math.random() < WILD_CHANCE) isWild = true
      const logs = makeLogs(randomInt(1, 11), isSpike(elapsed()) ? denied * SPIKE_FACTOR : denied, sequence)
      sequence += logs.length
      await boundary.send(envelopeFrame({ session_id, logs }))
      const allowed = logs.filter((log) => log.allowed).length
      written.frames++
      written.allowed += allowed
      written.denied += logs.length - allowed
      await rest(isWild ? WILD_PAUSE_MS : PAUSE_MS)
    }
    await boundary.close()
    written.active.delete(workspaceId)
  }
}

/** The share of people who are present; the first day begins in the morning. Times before the start are negative. */
export function activityAt(ms: number): number {
  return NIGHT + (1 - NIGHT) * (0.5 - 0.5 * Math.cos(2 * Math.PI * (ms / DAY_MS + 0.25)))
}

/** Whether a host that agents need is denied to all of them at this time. */
function isSpike(ms: number): boolean {
  return ms >= FIRST_SPIKE_MS && (ms - FIRST_SPIKE_MS) % SPIKE_EVERY_MS < SPIKE_MS
}

/** The requests that a fleet in which everybody is there sends in so much time, and the share of them that is denied. */
export function expectedRequests(
  fleet: readonly Workspace[],
  ms: number,
): { requests: number; denied: number } {
  const denied = DENIED.reduce((sum, share) => sum + share, 0) / DENIED.length
  return { requests: (fleet.length * MEAN_LOGS * ms) / PAUSE_MS, denied }
}
