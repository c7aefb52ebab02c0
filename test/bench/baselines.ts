// The baselines that ingest is measured against, each a server of its own: node --import tsx baselines.ts <name>.

import { createServer } from 'node:http'
import Fastify from 'fastify'

interface Batch {
  logs: { allowed: boolean; http_request?: unknown }[]
}

function count({ logs }: Batch) {
  let allowed = 0
  let denied = 0
  for (const log of logs) {
    if (log.http_request === undefined) continue
    if (log.allowed) allowed++
    else denied++
  }
  return { allowed, denied, skipped: logs.length - allowed - denied }
}

const baselines: Record<string, () => Promise<number>> = {
  /** Reads the body and does nothing with it. */
  async bare() {
    return listen((_body) => '{}')
  },

  /** Parses and counts, without a framework. */
  async parse() {
    return listen((body) => JSON.stringify(count(JSON.parse(body.toString()) as Batch)))
  },

  /** The same route in Fastify: no schema, no auth, no metrics, no limits. */
  async fastify() {
    const app = Fastify({ bodyLimit: 4_194_304 })
    app.post<{ Body: Batch }>('/boundary/logs', async (request, reply) =>
      reply.code(202).send(count(request.body)),
    )
    return Number(new URL(await app.listen({ port: 0, host: '127.0.0.1' })).port)
  },
}

async function listen(answer: (body: Buffer) => string): Promise<number> {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const text = answer(Buffer.concat(chunks))
      response
        .writeHead(202, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
        .end(text)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  return typeof address === 'object' && address ? address.port : 0
}

const port = await baselines[process.argv[2] ?? '']?.()
process.once('SIGTERM', () => process.exit()) // so that a profile is written
process.stdout.write(`${port}\n`)
