// A proxy between a replica and PostgreSQL that reads the protocol and breaks it where it is told to.

import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import type { Scope } from '../helpers/scope.js'

/** One message of the protocol on its way. */
export interface Message {
  from: 'client' | 'server'
  /** The protocol's type byte; `startup` for the first message of a client. */
  type: string
  bytes: Buffer
  /** Counts the messages of its connection, both ways, from 0. */
  index: number
  connection: number
}

/**
 * What becomes of a message: `pass` hands it on; `cut` hands on its first `bytes` bytes and then ends the
 * connection both ways; `swallow` drops it and all that follows both ways, and keeps the connection open;
 * a promise holds it, and what follows, until it resolves.
 */
export type Verdict = 'pass' | 'swallow' | { cut: number }
export type Judge = (message: Message) => Verdict | Promise<Verdict>

export interface FaultProxy {
  /** `url` with the proxy in the place of the server. */
  through(url: string): string
  /** Decides on every message from now on. */
  judge(judge: Judge): void
  /** Ends all connections at once. */
  cutAll(): void
  /** Refuses new connections and ends those there are, or takes them again. */
  setAway(away: boolean): void
  /** Connections taken or refused so far. */
  readonly connections: number
  /** Messages dropped so far. */
  readonly swallowed: number
}

const pass: Judge = () => 'pass'

/** Starts a proxy to 127.0.0.1:`port`; it passes everything on until it is told otherwise. */
export async function startProxy(t: Scope, port: number): Promise<FaultProxy> {
  let judge = pass
  let away = false
  let count = 0
  let swallowed = 0
  const sockets = new Set<Socket>()

  const server = createServer((client) => {
    const connection = count++
    if (away) {
      client.destroy()
      return
    }
    const upstream = connect(port, '127.0.0.1')
    const state = { index: 0, swallowing: false, cut: false }
    for (const [from, source, target] of [
      ['client', client, upstream],
      ['server', upstream, client],
    ] as const) {
      sockets.add(source)
      source.setNoDelay(true)
      source.on('error', () => {}) // its close follows
      source.on('close', () => {
        sockets.delete(source)
        target.destroy()
      })
      void forward(from, source, target)
    }

    async function forward(from: Message['from'], source: Socket, target: Socket): Promise<void> {
      try {
        for await (const { type, bytes } of messages(source, from === 'client')) {
          if (state.cut) return
          if (state.swallowing) {
            swallowed++
            continue
          }
          const verdict = await judge({ from, type, bytes, index: state.index++, connection })
          if (verdict === 'pass') target.write(bytes)
          else if (verdict === 'swallow') {
            state.swallowing = true
            swallowed++
          } else {
            state.cut = true
            // end(), not destroy(): what was handed on arrives.
            target.end(bytes.subarray(0, verdict.cut), () => {
              source.destroy()
              target.destroySoon()
            })
            return
          }
        }
      } catch {} // the connection is gone
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (typeof address !== 'object' || !address) throw new Error('no port')
  const cutAll = () => {
    for (const socket of sockets) socket.destroy()
  }
  t.teardown(() => {
    cutAll()
    server.close()
  })

  return {
    // Without TLS: the first message is the startup message then, not a request for encryption.
    through: (url) => `${url.replace(/@127\.0\.0\.1:\d+/, `@127.0.0.1:${address.port}`)}?sslmode=disable`,
    judge(next) {
      judge = next
    },
    cutAll,
    setAway(now) {
      away = now
      if (away) cutAll()
    },
    get connections() {
      return count
    },
    get swallowed() {
      return swallowed
    },
  }
}

/** Splits what a socket sends into messages. */
async function* messages(socket: Socket, isClient: boolean): AsyncGenerator<{ type: string; bytes: Buffer }> {
  let buffer = Buffer.alloc(0)
  let started = !isClient
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    buffer = Buffer.concat([buffer, chunk])
    for (;;) {
      const header = started ? 1 : 0
      if (buffer.length < header + 4) break
      const length = header + buffer.readUInt32BE(header)
      if (buffer.length < length) break
      yield {
        type: started ? String.fromCharCode(buffer.readUInt8(0)) : 'startup',
        bytes: Buffer.from(buffer.subarray(0, length)),
      }
      started = true
      buffer = buffer.subarray(length)
    }
  }
}
