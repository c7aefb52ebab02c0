// One POST to the service, and what its response means.

import {
  type ClientRequest,
  Agent as HttpAgent,
  type IncomingMessage,
  request as requestHttp,
} from 'node:http'
import { Agent as HttpsAgent, request as requestHttps } from 'node:https'
import type { Socket } from 'node:net'
import { version } from '../version.js'
import type { Ids } from './credentials.js'

const CONNECT_TIMEOUT_MS = 5_000
const RESPONSE_TIMEOUT_MS = 40_000
/** Names can move to other addresses. */
const CONNECTION_LIFE_MS = 5 * 60_000
/** The service's own responses are far shorter. */
const MAX_RESPONSE_BYTES = 64 * 1024

export type Outcome =
  | { kind: 'accepted' }
  /** The service itself says that it will never take these logs. */
  | { kind: 'refused'; reason: string }
  /** The token is missing, unknown, or for another workspace. */
  | { kind: 'unauthorized'; reason: string }
  | { kind: 'failed'; reason: string; isElsewhereBetter: boolean; retryAfterMs: number }

export interface Timeouts {
  connectMs: number
  responseMs: number
  connectionLifeMs: number
}

interface Response {
  status: number
  retryAfter: string | undefined
  body: string
}

export class Client {
  readonly #timeouts: Timeouts
  readonly #agents: { http: HttpAgent; https: HttpsAgent }
  readonly #born = new WeakMap<object, number>()

  constructor(timeouts: Partial<Timeouts> = {}) {
    this.#timeouts = {
      connectMs: CONNECT_TIMEOUT_MS,
      responseMs: RESPONSE_TIMEOUT_MS,
      connectionLifeMs: CONNECTION_LIFE_MS,
      ...timeouts,
    }
    this.#agents = {
      http: this.#limitLife(new HttpAgent({ keepAlive: true })),
      https: this.#limitLife(new HttpsAgent({ keepAlive: true })),
    }
  }

  /** Sends a batch; resolves whatever happens. */
  async post(
    url: URL,
    body: Buffer,
    ids: Ids,
    token: string | undefined,
    signal?: AbortSignal,
  ): Promise<Outcome> {
    try {
      return outcomeOf(await this.#request(url, body, headersOf(ids, token), signal))
    } catch (error) {
      return { kind: 'failed', reason: reasonOf(error), isElsewhereBetter: true, retryAfterMs: 0 }
    }
  }

  close(): void {
    this.#agents.http.destroy()
    this.#agents.https.destroy()
  }

  async #request(
    url: URL,
    body: Buffer,
    headers: Record<string, string>,
    signal?: AbortSignal,
  ): Promise<Response> {
    for (;;) {
      const { request, response } = this.#start(url, body, headers, signal)
      try {
        return await response
      } catch (error) {
        // The server closed an idle connection at the moment of sending: a new one tells.
        const isStale =
          request.reusedSocket && error instanceof Error && 'code' in error && error.code === 'ECONNRESET'
        if (!isStale || signal?.aborted) throw error
      }
    }
  }

  #start(url: URL, body: Buffer, headers: Record<string, string>, signal: AbortSignal | undefined) {
    const isTls = url.protocol === 'https:'
    const target = new URL(`${url.pathname.replace(/\/+$/, '')}/boundary/logs`, url)
    const options = {
      method: 'POST',
      headers: { ...headers, 'content-length': body.length },
      ...(signal && { signal }),
    }
    const request: ClientRequest = isTls
      ? requestHttps(target, { ...options, agent: this.#agents.https })
      : requestHttp(target, { ...options, agent: this.#agents.http })
    const response = new Promise<Response>((resolve, reject) => {
      const deadline = setTimeout(
        () => request.destroy(new Error(`no response within ${this.#timeouts.responseMs} ms`)),
        this.#timeouts.responseMs,
      )
      request.on('error', reject)
      request.on('close', () => clearTimeout(deadline))
      request.on('socket', (socket) => this.#limitConnecting(request, socket, isTls))
      request.on('response', (incoming) => {
        readBody(incoming).then(
          (text) =>
            resolve({
              status: incoming.statusCode ?? 0,
              retryAfter: incoming.headers['retry-after'],
              body: text,
            }),
          (error) => {
            request.destroy()
            reject(error)
          },
        )
      })
      request.end(body)
    })
    return { request, response }
  }

  #limitConnecting(request: ClientRequest, socket: Socket, isTls: boolean): void {
    if (!socket.connecting) return
    const { connectMs } = this.#timeouts
    const timer = setTimeout(
      () => request.destroy(new Error(`no connection within ${connectMs} ms`)),
      connectMs,
    )
    const stop = () => clearTimeout(timer)
    socket.once(isTls ? 'secureConnect' : 'connect', stop)
    socket.once('close', stop)
  }

  #limitLife<T extends HttpAgent>(agent: T): T {
    const keep = agent.keepSocketAlive.bind(agent)
    agent.keepSocketAlive = (socket) => {
      const born = this.#born.get(socket) ?? performance.now()
      this.#born.set(socket, born)
      return performance.now() - born < this.#timeouts.connectionLifeMs && keep(socket)
    }
    return agent
  }
}

function headersOf({ workspaceId, ownerId }: Ids, token: string | undefined): Record<string, string> {
  return {
    'content-type': 'application/x-protobuf',
    'user-agent': `boundary-usage-forwarder/${version}`,
    'x-workspace-id': workspaceId,
    'x-owner-id': ownerId,
    ...(token !== undefined && { authorization: `Bearer ${token}` }),
  }
}

async function readBody(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of incoming) {
    length += chunk.length
    if (length > MAX_RESPONSE_BYTES) throw new Error(`a response of over ${MAX_RESPONSE_BYTES} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

function outcomeOf({ status, retryAfter, body }: Response): Outcome {
  const json = parse(body)
  if (status === 202 && ['allowed', 'denied', 'skipped'].every((name) => Number.isInteger(json[name])))
    return { kind: 'accepted' }
  const isOwn =
    json.statusCode === status && typeof json.code === 'string' && typeof json.message === 'string'
  const reason = isOwn ? `${status} ${json.code}: ${json.message}` : `${status}, not from the service itself`
  if ((status === 400 || status === 413) && isOwn) return { kind: 'refused', reason }
  if (status === 401 || status === 403) return { kind: 'unauthorized', reason }
  return {
    kind: 'failed',
    reason,
    isElsewhereBetter: status === 429 || status >= 500,
    retryAfterMs: retryAfter === undefined ? 0 : delayOf(retryAfter),
  }
}

/** Empty where it is not the service that answered. */
function parse(body: string): Record<string, unknown> {
  try {
    const json: unknown = JSON.parse(body)
    return typeof json === 'object' && json !== null ? (json as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}

/** Retry-After in seconds, or a date. */
function delayOf(retryAfter: string): number {
  if (/^\d+$/.test(retryAfter.trim())) return Number(retryAfter) * 1000
  const date = Date.parse(retryAfter)
  return Number.isNaN(date) ? 0 : Math.max(0, date - Date.now())
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  // Several addresses failed: each has its own error.
  if (error instanceof AggregateError && error.errors.length > 0) return error.errors.map(reasonOf).join('; ')
  return 'code' in error && typeof error.code === 'string' && !error.message.includes(error.code)
    ? `${error.code}: ${error.message}`
    : error.message
}
