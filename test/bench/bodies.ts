// Bodies for the load: batches that differ in ids, URLs and decisions, so that nothing can be remembered.

import { randomInt, randomUUID } from 'node:crypto'

export interface Batch {
  workspace_id: string
  owner_id: string
  session_id: string
  confined_process_name: string
  logs: {
    allowed: boolean
    time: string
    sequence_number: number
    http_request: { method: string; url: string; matched_rule: string }
  }[]
}

const METHODS = ['GET', 'GET', 'GET', 'POST', 'PUT', 'DELETE']
const HOSTS = ['api.github.com', 'registry.npmjs.org', 'pypi.org', 'example.com', 'storage.googleapis.com']

export function randomBatch(logs: number): Batch {
  return {
    workspace_id: randomUUID(),
    owner_id: randomUUID(),
    session_id: randomUUID(),
    confined_process_name: 'agent',
    logs: Array.from({ length: logs }, (_, n) => {
      const host = HOSTS[randomInt(HOSTS.length)] ?? ''
      return {
        allowed: randomInt(10) > 0,
        time: new Date(Date.now() - randomInt(100_000)).toISOString(),
        sequence_number: n,
        http_request: {
          method: METHODS[randomInt(METHODS.length)] ?? '',
          url: `https://${host}/v1/${randomUUID()}?page=${randomInt(1_000)}`,
          matched_rule: `domain=${host}`,
        },
      }
    }),
  }
}

export function randomBatches(count: number, logs: number): Batch[] {
  return Array.from({ length: count }, () => randomBatch(logs))
}
