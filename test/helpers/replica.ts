// A replica under test: the whole service in this process, listening on a port of its own.

import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { buildApp } from '../../src/app.js'
import { parseConfig } from '../../src/config.js'
import type { Timing } from '../../src/timing.js'

export interface Replica {
  app: FastifyInstance
  url: string
  /** POSTs a batch; `body` fields override a valid one's. */
  send(body?: Record<string, unknown>, headers?: Record<string, string>): Promise<Response>
  get(path: string, headers?: Record<string, string>): Promise<Response>
  post(path: string, headers?: Record<string, string>): Promise<Response>
}

/** A busy machine makes the event loop late, which only the tests of overload are about; no preview waits for the next second. */
const FOR_TESTS: Partial<Timing> = {
  reconnectMs: 10,
  maxEventLoopDelayMs: Number.POSITIVE_INFINITY,
  previewMs: 0,
}

/** Starts one on `databaseUrl`; it flushes and takes snapshots only when told to, unless `env` says otherwise. */
export async function startReplica(
  t: Test,
  databaseUrl: string,
  env: Record<string, string> = {},
  timing: Partial<Timing> = {},
): Promise<Replica> {
  const app = await buildApp(
    parseConfig({
      DATABASE_URL: databaseUrl,
      PORT: '0',
      LOG_LEVEL: 'silent',
      FLUSH_INTERVAL_MS: '3600000',
      SNAPSHOT_INTERVAL_MS: '0',
      REPLICA_NAME: 'test',
      ...env,
    }),
    { timing: { ...FOR_TESTS, ...timing } },
  )
  t.teardown(() => app.close())
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  await app.database.prepared
  await app.reporting.started
  return {
    app,
    url,
    send: (body, headers) =>
      fetch(`${url}/boundary/logs`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(batch(body)),
      }),
    get: (path, headers) => fetch(url + path, headers ? { headers } : {}),
    post: (path, headers) => fetch(url + path, { method: 'POST', ...(headers && { headers }) }),
  }
}

export const allowedLog = { allowed: true, http_request: { method: 'GET', url: 'https://example.com/' } }
export const deniedLog = { allowed: false, http_request: { method: 'GET', url: 'https://example.org/' } }

/** A valid batch of one allowed log, from ids that nobody else has. */
export function batch(fields: Record<string, unknown> = {}): Record<string, unknown> {
  return { workspace_id: randomUUID(), owner_id: randomUUID(), logs: [allowedLog], ...fields }
}

/** `allowed` and `denied` logs of each kind. */
export function logs(allowed: number, denied: number): unknown[] {
  return [...Array(allowed).fill(allowedLog), ...Array(denied).fill(deniedLog)]
}

/** A snapshot in an answer. */
export interface SnapshotJson {
  id: string
  period_start: string
  period_end: string
  unique_workspaces: number
  unique_users: number
  allowed_requests: number
  denied_requests: number
}

/** The body of an answer that is known to be of that shape. */
export async function json<T = SnapshotJson>(response: Promise<Response>): Promise<T> {
  return (await (await response).json()) as T
}
