// Who may do what: two roles by bearer token or JWT, compared as hashes in constant time.

import { hash, timingSafeEqual } from 'node:crypto'
import jwt from '@fastify/jwt'
import type { FastifyRequest, onRequestHookHandler } from 'fastify'
import fp from 'fastify-plugin'
import { type Config, isOpen } from '../config.js'
import { Forbidden, Unauthorized } from './errors.js'
import { UUID } from './formats.js'

type Role = 'agent' | 'admin'

/** Whom a JWT speaks for; these count, whatever the body says. */
export interface Identity {
  workspaceId: string
  ownerId: string
}

declare module 'fastify' {
  interface FastifyInstance {
    /** onRequest hooks that let one role pass. */
    guard: Record<Role | 'metrics', onRequestHookHandler>
  }
  interface FastifyRequest {
    /** Tells one credential from another without holding it; the client address where access is open. */
    credential: string
    identity: Identity | null
  }
}

/** One token can be sent in many spellings of the header. */
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
      await app.register(jwt, {
        secret: algorithm === 'HS256' ? key : { public: key },
        // Signing needs a private key and an algorithm of its own; nothing here signs.
        sign: { algorithm },
        verify: { algorithms: [algorithm], cache: 1000 },
      })
    }

    /** Headers by which an agent was let pass, and their credentials: every batch brings one. */
    const accepted = new Map<string, string>()

    app.decorateRequest('credential', '')
    app.decorateRequest('identity', null)

    function check(request: FastifyRequest, role: Role): void {
      if (open) {
        // Pages of other sites may POST to a loopback address, without anybody's doing.
        const site = request.headers['sec-fetch-site']
        if (site !== undefined && site !== 'same-origin' && site !== 'none')
          throw new Forbidden('a page of another site may not ask: set tokens and use them')
        request.credential = request.ip
        return
      }
      // Found by a seeded hash of all of it, so the time taken does not tell how much of a guess is right.
      const known = role === 'agent' ? accepted.get(request.headers.authorization ?? '') : undefined
      if (known !== undefined) {
        request.credential = known
        return
      }
      const token = bearer(request)
      const candidate = digest(token)
      request.credential = candidate.toString('latin1')
      if (includes(role === 'agent' ? agentTokens : adminTokens, candidate)) {
        if (role === 'admin') return
        if (accepted.size >= MAX_ACCEPTED) accepted.clear()
        accepted.set(request.headers.authorization ?? '', request.credential)
        return
      }
      if (includes(role === 'agent' ? adminTokens : agentTokens, candidate))
        throw new Forbidden(`this token is not one of an ${role}: use one that is`)
      if (!jwtConfigured) throw new Unauthorized('unknown token')
      const identity = verify(token)
      if (role !== 'agent')
        throw new Forbidden("an agent's JWT may only send boundary logs: use an admin's token")
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
        throw new Forbidden('the JWT must carry the claims workspace_id and owner_id, both UUIDs')
      return { workspaceId: workspaceId.toLowerCase(), ownerId: ownerId.toLowerCase() }
    }

    app.decorate('guard', {
      agent: hook((request) => check(request, 'agent')),
      admin: hook((request) => check(request, 'admin')),
      metrics: hook((request) => {
        if (metricsTokens.length === 0) return
        if (!includes(metricsTokens, digest(bearer(request)))) throw new Unauthorized('unknown token')
      }),
    })

    if (open)
      app.log.warn(
        'no tokens are set: whoever reaches this loopback address may send logs and take snapshots',
      )
  },
  { name: 'auth' },
)

/** A hook that throws to refuse. Not async: a promise for each request costs more than the check. */
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

/** Looks at every entry, so that the time taken does not tell which one matched. */
function includes(digests: Buffer[], candidate: Buffer): boolean {
  let found = false
  for (const known of digests) if (timingSafeEqual(known, candidate)) found = true
  return found
}

function isUuid(value: unknown): value is string {
  return typeof value === 'string' && UUID.test(value)
}
