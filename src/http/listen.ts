// Listens on every address that the configured host name resolves to, as one server.

import { type LookupAddress, lookup as systemLookup } from 'node:dns'
import { once } from 'node:events'
import { createServer, isIPv6, type Server } from 'node:net'
import { promisify } from 'node:util'
import type { FastifyInstance } from 'fastify'
import { StartError } from '../start-error.js'

/** Errors of an address that this machine does not have, such as ::1 where IPv6 is disabled. */
const ABSENT = new Set(['EADDRNOTAVAIL', 'EAFNOSUPPORT'])

/** Every address of this machine, of IPv6 and IPv4. */
const ALL_ADDRESSES = '::'

export type Lookup = (host: string) => Promise<LookupAddress[]>

const lookupAll: Lookup = (host) => promisify(systemLookup)(host, { all: true })

/**
 * Finds an address in use before anything else is opened. Rejects with StartError if the host cannot be resolved, or
 * if this process cannot listen on one of its addresses.
 */
export async function checkAddresses(host: string, port: number, lookup: Lookup = lookupAll): Promise<void> {
  for (const address of await resolve(host, lookup)) {
    const probe = createServer()
    try {
      await bind(probe, address, port)
    } catch (error) {
      if (!isAbsent(error)) throw explain(error, address, port)
      continue
    }
    probe.close()
    if (host === ALL_ADDRESSES) break
  }
}

/**
 * Starts listening; resolves with the port. `localhost` often resolves to ::1 and to 127.0.0.1: the connections of all
 * addresses go to the app's one HTTP server, so limits, timeouts and the shutdown apply to all of them alike. (Fastify
 * itself would create a second server for the second address, which the shutdown does not reach.)
 * Rejects as checkAddresses() does, and if this machine has none of the addresses.
 */
export async function listen(
  app: FastifyInstance,
  host: string,
  port: number,
  lookup: Lookup = lookupAll,
): Promise<number> {
  const addresses = await resolve(host, lookup)
  const others: Server[] = []
  app.addHook('preClose', async () => {
    await Promise.all(
      others.map(async (server) => {
        server.close()
        await once(server, 'close')
      }),
    )
  })

  let bound: number | undefined
  let absent: unknown
  for (const address of addresses) {
    try {
      if (bound === undefined) {
        await app.listen({ host: address, port })
        bound = portOf(app.server)
        if (host === ALL_ADDRESSES) break
      } else others.push(await forward(app, address, bound))
    } catch (error) {
      if (!isAbsent(error)) throw explain(error, address, bound ?? port)
      absent = error
    }
  }
  if (bound === undefined) throw explain(absent, host, port)
  return bound
}

async function forward(app: FastifyInstance, host: string, port: number): Promise<Server> {
  const server = createServer((socket) => app.server.emit('connection', socket))
  await bind(server, host, port)
  app.log.info(`Server listening at http://${isIPv6(host) ? `[${host}]` : host}:${port}`)
  return server
}

function portOf(server: Server): number {
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('the server does not listen on a port')
  return address.port
}

async function resolve(host: string, lookup: Lookup): Promise<string[]> {
  try {
    const addresses = (await lookup(host)).map(({ address }) => address)
    if (host === ALL_ADDRESSES) addresses.push('0.0.0.0') // for where there is no IPv6
    return [...new Set(addresses)]
  } catch (error) {
    throw new StartError(`HOST: cannot resolve ${JSON.stringify(host)} (${codeOf(error)})`)
  }
}

async function bind(server: Server, host: string, port: number): Promise<void> {
  server.listen({ host, port })
  await once(server, 'listening')
}

function explain(error: unknown, host: string, port: number): StartError {
  const reasons: Record<string, string> = {
    EADDRINUSE: 'the port is in use: stop the other process or change PORT',
    EACCES: 'permission denied: ports below 1024 need a privilege; change PORT',
    EADDRNOTAVAIL: 'this machine does not have that address: change HOST',
    EAFNOSUPPORT: 'this machine does not have that address family: change HOST',
  }
  const code = codeOf(error)
  return new StartError(
    `cannot listen on ${isIPv6(host) ? `[${host}]` : host}:${port}: ${reasons[code] ?? code}`,
  )
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error)
}

function isAbsent(error: unknown): boolean {
  return ABSENT.has(codeOf(error))
}
