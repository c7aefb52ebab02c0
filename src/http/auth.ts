// Authentication and authorization: two roles, by bearer tokens (compared as hashes in constant time) or agents' JWTs.

import { hash, timingSafeEqual } from 'node:crypto'
import type { FastifyRequest, onRequestHookHandler } from 'fastify'
import fp from 'fastify-plugin'
import { type Config, isOpen } from '../config.js'
import { Forbidden, Unauthorized } from './errors.js'
import { UUID } from './formats.js'

type Role = 'agent' | 'admin'

/** The ids of a JWT. A batch that names others is rejected with 403. */
export interface Identity {
  workspaceId: string
  ownerId: string
}

declare module 'fastify' {
  interface FastifyInstance {
    /** onRequest hooks that accept one role each. */
    guard: Record<Role | 'metrics', onRequestHookHandler>
  }
  interface FastifyRequest {
    /**
     * Who sends the request: the ids of a JWT, so that each JWT of one agent is the same; otherwise the configured token,
     * hashed; the client address if access is open.
     */
    credential: string
    identity: Identity | null
  }
}

/** Bounds the cache: the same token can be sent with different spacing, and in any case of "Bearer". */
const MAX_ACCEPTED = 100

export default fp<{ config: Config }>(
  async (app, { config }) => {
    const open = isOpen(config)
    const agentTokens = config.AGENT_TOKENS.map(digest)
    const adminTokens = config.ADMIN_TOKENS.map(digest)
    const metricsTokens = config.METRICS_TOKEN === undefined ? [] : [digest(config.METRICS_TOKEN)]
    const { AGENT_JWT_KEY: key, AGENT_JWT_ALGORITHM: algorithm } = config
    const jwtConfigured = key !== undefined && algorithm !== undefined

    if (jwtConfigured) {
      await app.register(import('@fastify/jwt'), {
        secret: algorithm === 'HS256' ? key : { public: key },
        // The service never signs, but without this the plugin chooses an algorithm that the key may not support.
        sign: { algorithm },
        verify: { algorithms: [algorithm], cache: 1000 },
      })
    }

    /** The Authorization headers accepted before, with their credentials: saves hashing the token of every batch. */
    const accepted = new Map<string, string>()

    app.decorateRequest('credential', '')
    app.decorateRequest('identity', null)

    function check(request: FastifyRequest, role: Role): void {
      authenticate(request, role)
      app.identifyConnection(request.raw.socket)
    }

    function authenticate(request: FastifyRequest, role: Role): void {
      if (open) {
        // A page of another site that only reads sends no Origin, by which host.ts rejects the rest.
        const site = request.headers['sec-fetch-site']
        if (site !== undefined && site !== 'same-origin' && site !== 'none')
          throw new Forbidden('requests from pages of other sites are rejected while no tokens are set')
        request.credential = request.ip
        return
      }
      // A lookup by a seeded hash of the whole header: its time reveals nothing about a partly correct guess.
      const known = role === 'agent' ? accepted.get(request.headers.authorization ?? '') : undefined
      if (known !== undefined) {
        request.credential = known
        return
      }
      const token = bearer(request)
      const candidate = digest(token)
      if (includes(role === 'agent' ? agentTokens : adminTokens, candidate)) {
        request.credential = candidate.toString('latin1')
        if (role === 'admin') return
        if (accepted.size >= MAX_ACCEPTED) accepted.clear()
        accepted.set(request.headers.authorization ?? '', request.credential)
        return
      }
      if (includes(role === 'agent' ? adminTokens : agentTokens, candidate))
        throw new Forbidden(`${role} token required`)
      if (!jwtConfigured) throw new Unauthorized('unknown token')
      const identity = verify(token)
      if (role !== 'agent')
        throw new Forbidden('admin token required: JWTs only authorize sending boundary logs')
      request.credential = `${identity.workspaceId} ${identity.ownerId}`
      request.identity = identity
    }

    function verify(token: string): Identity {
      let claims: unknown
      try {
        claims = app.jwt.verify(token)
      } catch (error) {
        throw new Unauthorized(error instanceof Error ? error.message : 'unknown token')
      }
      const { workspace_id: workspaceId, owner_id: ownerId } = claims as Record<string, unknown>
      if (!isUuid(workspaceId) || !isUuid(ownerId))
        throw new Forbidden('the JWT must contain the claims workspace_id and owner_id, both UUIDs')
      return { workspaceId: workspaceId.toLowerCase(), ownerId: ownerId.toLowerCase() }
    }

    app.decorate('guard', {
      agent: hook((request) => check(request, 'agent')),
      admin: hook((request) => check(request, 'admin')),
      metrics: hook((request) => {
        if (metricsTokens.length === 0) return
        if (!includes(metricsTokens, digest(bearer(request)))) throw new Unauthorized('unknown token')
        app.identifyConnection(request.raw.socket)
      }),
    })

    if (open)
      app.log.warn(
        'no tokens are set: anyone who can connect to this loopback address can send logs and take snapshots',
      )
  },
  { name: 'auth', dependencies: ['connections'] },
)

/** A hook that rejects a request by throwing. It is not async, because a promise costs more than the check itself. */
function hook(check: (request: FastifyRequest) => void): onRequestHookHandler {
  return (request, _reply, done) => {
    check(request)
    done()
  }
}

function bearer(request: FastifyRequest): string {
  const token = /^Bearer +(\S+) *$/i.exec(request.headers.authorization ?? '')?.[1]
  if (token === undefined) throw new Unauthorized('no bearer token')
  return token
}

function digest(token: string): Buffer {
  return hash('sha256', token, 'buffer')
}

/** Compares every entry, so that the time taken does not reveal which one matched. */
function includes(digests: Buffer[], candidate: Buffer): boolean {
  let found = false
  for (const known of digests) if (timingSafeEqual(known, candidate)) found = true
  return found
}

function isUuid(value: unknown): value is string {
  return typeof value === 'string' && UUID.test(value)
}
