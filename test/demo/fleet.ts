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
/** An agent that has run wild makes its boundary send as fast as this. */
const WILD_PAUSE_MS = 10
const WILD_CHANCE = 0.001

/** What the boundaries have written to their sockets. */
export interface Written {
  frames: number
  allowed: number
  denied: number
  sessions: number
  active: Set<string>
}

interface Workspace {
  workspaceId: string
  ownerId: string
  socket: string
  /** When its owner is there: from 0, always, to 1, only when all are. */
  hour: number
}

/**
 * Runs a fleet of so many people against the service until `signal` ends it, and then until the forwarders have sent
 * everything; rejects at the first real error.
 */
export async function runFleet(
  url: string,
  people: number,
  written: Written,
  signal: AbortSignal,
): Promise<void> {
  setMaxListeners(0, signal)
  const scope = openScope()
  try {
    const directory = await mkdtemp(join(tmpdir(), 'boundary-usage-'))
    scope.teardown(() => rm(directory, { recursive: true, force: true }))
    const began = performance.now()
    const activity = () => activityAt(performance.now() - began)
    const workspaces = Array.from({ length: people }, (_, n) => {
      const ownerId = randomUUID()
      const count = pick([1, 1, 2, 3, 5])
      return Array.from({ length: count }, (_, w) => ({
        workspaceId: randomUUID(),
        ownerId,
        socket: join(directory, `${n}-${w}.sock`),
        hour: n / people,
      }))
    }).flat()
    const forwarders = await Promise.all(workspaces.map((workspace) => forward(url, workspace)))
    await Promise.all(workspaces.map((workspace) => runBoundary(scope, workspace, activity, written, signal)))
    const ends = await Promise.all(forwarders.map((forwarder) => forwarder.stop()))
    const lost = ends.reduce((sum, end) => sum + end.lost, 0)
    if (lost > 0) throw new Error(`the service did not take ${lost} logs in time`)
  } finally {
    await scope.close()
  }
}

/** In this process: a real one has a process of its own, which a hundred workspaces on one machine would be many of. */
function forward(url: string, { workspaceId, ownerId, socket }: Workspace) {
  return startForwarder(
    {
      urls: [new URL(url)],
      socket,
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
  { workspaceId, socket, hour }: Workspace,
  activity: () => number,
  written: Written,
  signal: AbortSignal,
): Promise<void> {
  const rest = (ms: number) => pause(ms * (0.5 + Math.random()), { signal })

  while (!signal.aborted) {
    await rest(PAUSE_MS)
    if (activity() < hour) continue
    written.sessions++
    written.active.add(workspaceId)
    const boundary = await connectBoundary(scope, socket)
    const session_id = randomUUID()
    const denied = pick([0.01, 0.02, 0.05, 0.3])
    let sequence = 0
    let isWild = false
    // Until its person leaves, or it is started anew.
    while (!signal.aborted && activity() >= hour && Math.random() > 0.02) {
      if (Math.random() < WILD_CHANCE) isWild = true
      const logs = makeLogs(randomInt(1, 11), denied, sequence)
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

/** Which share of the people is there; the first day begins in the morning. */
function activityAt(ms: number): number {
  const day = (ms % DAY_MS) / DAY_MS
  return NIGHT + (1 - NIGHT) * (0.5 - 0.5 * Math.cos(2 * Math.PI * (day + 0.25)))
}
