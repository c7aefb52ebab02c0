// A fleet of agents: people who come and go with the day, several workspaces each, sessions that end and start again.

import { randomInt, randomUUID } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { sendBatch } from './client.js'
import { countRefusal, type Refused } from './progress.js'
import { makeLogs, pick } from './traffic.js'

/** A day of the demo: nights are quiet, not silent. */
const DAY_MS = 120_000
const NIGHT = 0.2
/** Between two batches of an agent. A real one sends every 5 s at the latest. */
const PAUSE_MS = 500
/** An agent that has run wild sends as fast as this, until it is refused. */
const WILD_PAUSE_MS = 10
const WILD_CHANCE = 0.001

/** What the fleet was told. */
export interface Told {
  batches: number
  allowed: number
  denied: number
  refused: Refused
  sessions: number
  active: Set<string>
}

interface Person {
  ownerId: string
  /** As a proxy before the service would tell it: refusals are for one of them, not for all. */
  address: string
  /** From 0, always there, to 1, only when all are. */
  hour: number
}

/** Runs a fleet of so many people against the service until `signal` ends it; rejects at the first real error. */
export async function runFleet(url: string, people: number, told: Told, signal: AbortSignal): Promise<void> {
  setMaxListeners(0, signal)
  const began = performance.now()
  const activity = () => activityAt(performance.now() - began)
  const agents: Promise<void>[] = []
  for (let n = 0; n < people; n++) {
    const address = `10.0.${n >> 8}.${n & 255}`
    const person: Person = { ownerId: randomUUID(), address, hour: n / people }
    const workspaces = pick([1, 1, 2, 3, 5])
    for (let w = 0; w < workspaces; w++) agents.push(runAgent(url, person, activity, told, signal))
  }
  await Promise.all(agents)
}

async function runAgent(
  url: string,
  person: Person,
  activity: () => number,
  told: Told,
  signal: AbortSignal,
): Promise<void> {
  const workspaceId = randomUUID()
  const pause = (ms: number) => sleep(ms * (0.5 + Math.random()), undefined, { signal }).catch(() => {}) // it is over
  const target = {
    url,
    headers: { 'x-forwarded-for': person.address },
    onRefused(reason: string) {
      countRefusal(told.refused, reason)
      isWild = false
    },
  }
  let isWild = false

  while (!signal.aborted) {
    await pause(PAUSE_MS)
    if (activity() < person.hour) continue
    told.sessions++
    told.active.add(workspaceId)
    const sessionId = randomUUID()
    const confinedProcessName = pick(['agent', 'node', 'python'])
    const denied = pick([0.01, 0.02, 0.05, 0.3])
    let sequence = 0
    // Until its person leaves, or it is started anew.
    while (!signal.aborted && activity() >= person.hour && Math.random() > 0.02) {
      if (Math.random() < WILD_CHANCE) isWild = true
      const logs = makeLogs(randomInt(1, 11), denied, sequence)
      sequence += logs.length
      const counts = await sendBatch(
        target,
        {
          workspace_id: workspaceId,
          owner_id: person.ownerId,
          session_id: sessionId,
          confined_process_name: confinedProcessName,
          logs,
        },
        signal,
      )
      if (counts) {
        told.batches++
        told.allowed += counts.allowed
        told.denied += counts.denied
      }
      await pause(isWild ? WILD_PAUSE_MS : PAUSE_MS)
    }
    told.active.delete(workspaceId)
  }
}

/** Which share of the people is there; the first day begins in the morning. */
function activityAt(ms: number): number {
  const day = (ms % DAY_MS) / DAY_MS
  return NIGHT + (1 - NIGHT) * (0.5 - 0.5 * Math.cos(2 * Math.PI * (day + 0.25)))
}
