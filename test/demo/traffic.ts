// The requests of agents: hosts that a boundary allows or denies, in the mix of a working day.

import { randomInt } from 'node:crypto'
import type { Batch } from '../bench/bodies.js'

type Log = Batch['logs'][number]

interface Host {
  name: string
  paths: string[]
  methods: string[]
  /** Its frequency, relative to the others. */
  weight: number
}

const GET = ['GET']
const ALLOWED: Host[] = [
  { name: 'models.example.com', paths: ['/v1/messages'], methods: ['POST'], weight: 40 },
  { name: 'github.com', paths: ['/acme/shop.git/info/refs', '/acme/shop'], methods: GET, weight: 15 },
  { name: 'registry.npmjs.org', paths: ['/fastify', '/typescript', '/zod'], methods: GET, weight: 20 },
  { name: 'pypi.org', paths: ['/simple/requests/', '/simple/numpy/'], methods: GET, weight: 10 },
  { name: 'proxy.golang.org', paths: ['/golang.org/x/text/@v/list'], methods: GET, weight: 5 },
  { name: 'api.github.com', paths: ['/repos/acme/shop/pulls'], methods: ['GET', 'GET', 'POST'], weight: 10 },
]
const DENIED: Host[] = [
  { name: 'telemetry.example.com', paths: ['/v2/events'], methods: ['POST'], weight: 50 },
  { name: 'pastebin.com', paths: ['/raw/x1'], methods: GET, weight: 15 },
  { name: '169.254.169.254', paths: ['/latest/meta-data/'], methods: GET, weight: 10 },
  { name: 'get.example.net', paths: ['/install.sh'], methods: GET, weight: 25 },
]

/** So many logs numbered from `first` on, of which about `denied` (0 to 1) are denials. */
export function makeLogs(count: number, denied: number, first = 0): Log[] {
  return Array.from({ length: count }, (_, n) => {
    const allowed = Math.random() >= denied
    const host = draw(allowed ? ALLOWED : DENIED)
    return {
      allowed,
      time: new Date().toISOString(),
      sequence_number: first + n,
      http_request: {
        method: pick(host.methods),
        url: `https://${host.name}${pick(host.paths)}`,
        matched_rule: allowed ? `domain=${host.name}` : '',
      },
    }
  })
}

export function pick<T>(from: readonly T[]): T {
  const picked = from[randomInt(from.length)]
  if (picked === undefined) throw new Error('nothing to pick from')
  return picked
}

function draw(hosts: Host[]): Host {
  let ticket = randomInt(hosts.reduce((sum, { weight }) => sum + weight, 0))
  for (const host of hosts) {
    ticket -= host.weight
    if (ticket < 0) return host
  }
  throw new Error('no host to draw')
}
