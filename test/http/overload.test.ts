// Overload: when requests are rejected, and when they are not.

import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import overload, { type OverloadLimits } from '../../src/http/overload.js'
import { until } from '../helpers/until.js'

const SAMPLE_MS = 20
const MAX_DELAY_MS = 400

t.test('a single pause is not an overload, whenever it occurs', async (t) => {
  const app = await start(t)
  pause() // before the first sample
  await sleep(1)
  for (const share of [1.1, 1.5, 1.9]) {
    t.equal(await status(app), 200)
    await sleep(share * SAMPLE_MS)
    pause()
    await sleep(1)
  }
  t.equal(await status(app), 200)
})

t.test(
  'a replica whose event loop is late repeatedly rejects requests until it is no longer late',
  async (t) => {
    const app = await start(t)
    for (let n = 0; n < 3; n++) {
      pause()
      await sleep(1)
    }
    t.equal(await status(app), 503)
    await until(async () => (await status(app)) === 200, { what: 'a request to be served' })
  },
)

t.test(
  'a replica whose heap is nearly full rejects requests, and asks for room at each sample',
  async (t) => {
    let asked = 0
    const app = await start(t, { maxHeapBytes: 1, onHeapFull: () => void asked++ })
    await until(async () => (await status(app)) === 503 && asked >= 3, {
      what: 'a request to be rejected, and room to be asked for three times',
    })
  },
)

async function start(t: Test, limits: Partial<OverloadLimits> = {}): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(overload, { sampleMs: SAMPLE_MS, maxDelayMs: MAX_DELAY_MS, ...limits })
  app.get('/', async () => 'served')
  await app.ready()
  return app
}

async function status(app: FastifyInstance): Promise<number> {
  return (await app.inject('/')).statusCode
}

/** Blocks the event loop for longer than a sample and the maximum delay. */
function pause(): void {
  const end = performance.now() + MAX_DELAY_MS + 2 * SAMPLE_MS
  while (performance.now() < end);
}
