// The service as a forwarder sees it, in this process: it counts each log of a session once, answers as the API says,
// and fails in any way that a test asks for.

import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { decodeLogs } from './protobuf.js'
import type { Scope } from './scope.js'

export interface StubBatch {
  workspaceId: string
  ownerId: string
  sessionId: string
  numbers: number[]
  urls: string[]
  bytes: number
  token: string | undefined
  at: number
}

/** How to answer: a status and a body, or what else can happen to a request. */
export type Answer =
  | { status: number; headers?: Record<string, string>; body?: string }
  /** Counts the batch and cuts the connection. */
  | 'lose'
  /** Cuts the connection and counts nothing. */
  | 'reset'
  /** Never answers. */
  | 'hang'

export interface StubService {
  url: string
  port: number
  /** All batches that arrived, counted or not, in their order. */
  batches: StubBatch[]
  /** Whether to answer otherwise than with 202. */
  answer: (batch: StubBatch) => Answer | undefined
  /** Distinct logs that were counted: workspace, session and number. */
  counted: Set<string>
  /** Logs that arrived again. */
  duplicates: number
  /** Numbers that were counted for a session, in ascending order. */
  numbersOf(sessionId: string): number[]
  stop(): Promise<void>
  start(): Promise<void>
}

/** An error as the service words it. */
export function refusal(status: number, code = 'INVALID_BODY'): Answer {
  return {
    status,
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ statusCode: status, code, error: 'refused', message: 'the body must be valid' }),
  }
}

export async function startStub(t: Scope): Promise<StubService> {
  const server = createServer((request, response) => void handle(request, response))
  const sockets = new Set<Socket>()
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  const counted = new Set<string>()

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = []
    try {
      for await (const chunk of request) chunks.push(chunk)
    } catch {
      return // the forwarder was killed
    }
    const body = Buffer.concat(chunks)
    const { logs, sessionId } = decodeLogs(body)
    const batch: StubBatch = {
      workspaceId: String(request.headers['x-workspace-id']),
      ownerId: String(request.headers['x-owner-id']),
      sessionId,
      numbers: logs.map(({ sequence_number }) => sequence_number ?? 0),
      urls: logs.map(({ http_request }) => http_request?.url ?? ''),
      bytes: body.length,
      token: request.headers.authorization?.replace(/^Bearer /, ''),
      at: performance.now(),
    }
    stub.batches.push(batch)
    const answer = request.url === '/boundary/logs' ? stub.answer(batch) : { status: 404 }
    if (answer === 'hang') return
    if (answer === 'reset') return void request.socket.destroy()
    if (answer !== undefined && answer !== 'lose')
      return void response.writeHead(answer.status, answer.headers).end(answer.body ?? '')
    // A session's numbers are unique within a batch; the service says so with 400.
    if (new Set(batch.numbers).size < batch.numbers.length || batch.numbers.length > 1000)
      return void response.writeHead(400, { 'content-type': 'application/json' }).end(
        JSON.stringify({
          statusCode: 400,
          code: 'INVALID_BODY',
          error: 'Bad Request',
          message: 'repeated',
        }),
      )
    for (const number of batch.numbers) {
      const key = `${batch.workspaceId}/${sessionId}/${number}`
      if (counted.has(key)) stub.duplicates++
      counted.add(key)
    }
    if (answer === 'lose') return void request.socket.destroy()
    const allowed = logs.filter((log) => log.http_request && log.allowed).length
    const denied = logs.filter((log) => log.http_request && !log.allowed).length
    const counts = { allowed, denied, skipped: logs.length - allowed - denied }
    response.writeHead(202, { 'content-type': 'application/json' }).end(JSON.stringify(counts))
  }

  const stub: StubService = {
    url: '',
    port: 0,
    batches: [],
    answer: () => undefined,
    counted,
    duplicates: 0,
    numbersOf: (sessionId) =>
      [...counted]
        .filter((key) => key.includes(`/${sessionId}/`))
        .map((key) => Number(key.split('/')[2]))
        .toSorted((a, b) => a - b),
    async stop() {
      server.close()
      for (const socket of sockets) socket.destroy()
      await once(server, 'close')
    },
    async start() {
      server.listen(stub.port, '127.0.0.1')
      await once(server, 'listening')
      const address = server.address()
      stub.port = typeof address === 'object' && address ? address.port : 0
      stub.url = `http://127.0.0.1:${stub.port}`
    },
  }
  await stub.start()
  t.teardown(() => (server.listening ? stub.stop() : undefined))
  return stub
}
