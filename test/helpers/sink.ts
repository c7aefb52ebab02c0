// A sink as a receiver of webhooks would write it: verifies what comes, and answers as the test has it.

import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { text } from 'node:stream/consumers'
import { Webhook } from 'standardwebhooks'
import type { SnapshotJson } from './replica.js'
import type { Scope } from './scope.js'

export interface Delivery {
  id: string
  snapshot: SnapshotJson
}

export interface SinkServer {
  /** The settings that point a replica here. */
  readonly env: { SINK_URL: string; SINK_SECRET: string }
  /** Those whose signature was right, in the order of their coming. */
  readonly deliveries: readonly Delivery[]
  readonly forged: number
  /** Answers every delivery from now on; by default with 204. */
  answer(next: (response: ServerResponse, request: IncomingMessage) => void): void
  /** Resolves when there have been so many. */
  until(count: number): Promise<void>
}

const accept = (response: ServerResponse) => void response.writeHead(204).end()

export async function startSink(t: Scope): Promise<SinkServer> {
  const secret = `whsec_${Buffer.alloc(32, 5).toString('base64')}`
  const webhook = new Webhook(secret)
  const deliveries: Delivery[] = []
  const watchers = new Set<() => void>()
  let answer: Parameters<SinkServer['answer']>[0] = accept
  let forged = 0
  const server = createServer(async (request, response) => {
    const body = await text(request)
    try {
      const snapshot = webhook.verify(body, request.headers as Record<string, string>) as SnapshotJson
      deliveries.push({ id: String(request.headers['webhook-id']), snapshot })
    } catch {
      forged++
    }
    answer(response, request)
    for (const watcher of watchers) watcher()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = server.address()
  if (typeof address !== 'object' || !address) throw new Error('no port')
  return {
    env: { SINK_URL: `http://127.0.0.1:${address.port}/usage?key=of-the-sink`, SINK_SECRET: secret },
    deliveries,
    get forged() {
      return forged
    },
    answer(next) {
      answer = next
    },
    until: (count) =>
      new Promise((resolve) => {
        const look = () => {
          if (deliveries.length < count) return
          watchers.delete(look)
          resolve()
        }
        watchers.add(look)
        look()
      }),
  }
}
