// Keeps the rounds of the event loop short while clients send more than it can handle: libuv accepts one connection in
// each, so a client that connects waits for as many rounds as there are connections before its own.

import type { Socket } from 'node:net'
import type { Sender } from './body-budget.js'
import { FairQueue } from './fair-queue.js'

/** So long after the first request of a round, others make their connection rest. */
const LONG_MS = 10
/** How long the requests of the connections that are read again may take. */
const AIM_MS = 2

interface Incoming extends Sender {
  /** By performance.now(). */
  readonly arrivedAt: number
  readonly raw: { readonly socket: Socket }
}

/**
 * In a round, Node.js reads every connection that has sent something, and handles up to a few dozen requests of each. When
 * that takes long, the connections read last rest: nothing is read from them until it is the turn of their sender. Each
 * round resumes some of them, more or fewer by how long the last one took.
 */
export class Rounds {
  #startedAt: number | undefined
  /** Connections that are to rest, with their last request. */
  readonly #late = new Map<Socket, Incoming>()
  readonly #resting = new FairQueue<Socket>()
  #resumed = 1
  readonly #now: () => number

  constructor(now: () => number = () => performance.now()) {
    this.#now = now
  }

  /** Must be called for each request; its credential may be set until the end of the round. */
  observe(request: Incoming): void {
    if (this.#startedAt === undefined) this.#begin(request.arrivedAt)
    else if (request.arrivedAt - this.#startedAt > LONG_MS) this.#late.set(request.raw.socket, request)
  }

  #begin(at: number): void {
    this.#startedAt = at
    if (this.#resting.isEmpty) setImmediate(() => this.#end())
  }

  #end(): void {
    const tookMs = this.#startedAt === undefined ? 0 : this.#now() - this.#startedAt
    this.#startedAt = undefined
    this.#resumed = tookMs > AIM_MS ? Math.max(1, this.#resumed / 2) : 2 * this.#resumed
    for (let count = 0; count < this.#resumed && !this.#resting.isEmpty; ) {
      const socket = this.#resting.shift()
      if (!socket || socket.destroyed) continue
      socket.resume()
      count++
    }
    for (const [socket, request] of this.#late) {
      // What is paused already, until its response is sent, must not be resumed before.
      if (socket.destroyed || socket.isPaused()) continue
      socket.pause()
      this.#resting.push(request, socket)
    }
    this.#late.clear()
    if (this.#resting.isEmpty) this.#resumed = 1
    else setImmediate(() => this.#end())
  }
}
