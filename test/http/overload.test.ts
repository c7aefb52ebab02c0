// Overload: what is taken for one, and what is not.

import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { parseConfig } from '../../src/config.js'
import overload from '../../src/http/overload.js'

const PAUSE_MS = 1_200 // more than the limit and the time between two looks

t.test('one pause is no overload, whenever it comes', async (t) => {
  const app = await start(t)
  pause() // before anything could be looked at
  await sleep(1)
  for (const afterMs of [110, 150, 190]) {
    t.equal(await status(app), 200)
    await sleep(afterMs)
    pause()
    await sleep(1)
  }
  t.equal(await status(app), 200)
})

t.test('who is late again and again is overloaded, until no longer late', async (t) => {
  const app = await start(t)
  for (let n = 0; n < 3; n++) {
    pause()
    await sleep(1)
  }
  t.equal(await status(app), 503)
  while ((await status(app)) !== 200) await sleep(10)
})

async function start(t: Test): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(overload, { config: parseConfig({ DATABASE_URL: 'postgres://localhost/none' }) })
  app.get('/', async () => 'at ease')
  await app.ready()
  return app
}

async function status(app: FastifyInstance): Promise<number> {
  return (await app.inject('/')).statusCode
}

/** Keeps the event loop from turning. */
function pause(): void {
  const end = performance.now() + PAUSE_MS
  while (performance.now() < end);
}
