// Whose logs the forwarder sends, and the token with which it does.

import { readFileSync } from 'node:fs'

export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** The workspace and the user to whom logs belong. */
export interface Ids {
  workspaceId: string
  ownerId: string
}

export function sameIds(a: Ids, b: Ids): boolean {
  return a.workspaceId === b.workspaceId && a.ownerId === b.ownerId
}

/** The claims of a JWT, unverified: the service verifies. Undefined for any other token. */
export function claimsOf(token: string): Ids | undefined {
  const [, payload, ...rest] = token.split('.')
  if (payload === undefined || rest.length !== 1) return undefined
  try {
    const claims: unknown = JSON.parse(Buffer.from(payload, 'base64url').toString())
    if (typeof claims !== 'object' || claims === null) return undefined
    const { workspace_id: workspaceId, owner_id: ownerId } = claims as Record<string, unknown>
    if (typeof workspaceId !== 'string' || typeof ownerId !== 'string') return undefined
    if (!UUID.test(workspaceId) || !UUID.test(ownerId)) return undefined
    return { workspaceId: workspaceId.toLowerCase(), ownerId: ownerId.toLowerCase() }
  } catch {
    return undefined // it only looks like a JWT
  }
}

/** A token as a header can carry it. */
export const TOKEN = /^[\x21-\x7e]+$/

export class Credentials {
  token: string | undefined
  /** Of the logs that are read from now on. */
  ids: Ids
  readonly #file: string | undefined
  readonly #idsAreFixed: boolean

  /** `ids` are those of the settings, which a token never changes; without them the token's claims apply. */
  constructor(source: { token?: string | undefined; file?: string | undefined; ids?: Ids | undefined }) {
    this.token = source.token
    this.#file = source.file
    this.#idsAreFixed = source.ids !== undefined
    const ids = source.ids ?? (source.token === undefined ? undefined : claimsOf(source.token))
    if (ids === undefined) throw new Error('a plain token needs ids') // the settings have been checked
    this.ids = ids
  }

  /** Reads the token's file again; returns whether the token has changed. An empty or missing file keeps the old one. */
  reread(): boolean {
    const token = this.#file === undefined ? undefined : readToken(this.#file)
    if (token === undefined || token === this.token) return false
    this.token = token
    const claims = this.#idsAreFixed ? undefined : claimsOf(token)
    if (claims !== undefined && !sameIds(claims, this.ids)) this.ids = claims
    return true
  }
}

/** Undefined if the file is missing or contains no token. */
export function readToken(file: string): string | undefined {
  try {
    const token = readFileSync(file, 'utf8').trim()
    return TOKEN.test(token) ? token : undefined
  } catch {
    return undefined
  }
}
