// The worker thread of the embedded PostgreSQL. Queries run synchronously in it, so not in the main thread.

import { existsSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { PGlite } from '@electric-sql/pglite'
import { dataDir as prepopulated } from '@electric-sql/pglite-prepopulatedfs'
import { PGLiteSocketServer } from '@electric-sql/pglite-socket'
import type { WorkerInput } from './embedded.js'

const { dataDir, socketPath } = workerData as WorkerInput

if (!existsSync(dataDir)) {
  // Made beside its place and moved there whole, so that a start cut off midway leaves nothing half made.
  const unfinished = `${dataDir}.new`
  await rm(unfinished, { recursive: true, force: true })
  const made = await PGlite.create({ dataDir: unfinished, loadDataDir: await prepopulated() })
  await made.close()
  await rename(unfinished, dataDir)
}

const db = await PGlite.create({ dataDir })
// One connection: the server interleaves the messages of several in one session.
const server = new PGLiteSocketServer({ db, path: socketPath, maxConnections: 1 })
await server.start()

parentPort?.once('message', async () => {
  await server.stop()
  await nextTurn() // a connection that closed just now is still being cleaned up, which uses the database
  await db.close()
  parentPort?.close()
})
parentPort?.postMessage('listening')
