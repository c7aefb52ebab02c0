// The worker thread of the embedded PostgreSQL: its queries are synchronous and would block the main thread.

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
  // Created under another name and then renamed, so that an interrupted start leaves no incomplete directory.
  const unfinished = `${dataDir}.new`
  await rm(unfinished, { recursive: true, force: true })
  const made = await PGlite.create({ dataDir: unfinished, loadDataDir: await prepopulated() })
  await made.close()
  await rename(unfinished, dataDir)
}

// After a checkpoint, PostgreSQL would keep 80 MB and more of its log as files to write the next log into.
const keepNoLog = ['-c', 'wal_recycle=off', '-c', 'min_wal_size=32MB']
// The merged sketches of a quarter's days take some 5 MB, and would go through temporary files.
const sortInMemory = ['-c', 'work_mem=32MB']
const startParams = [...PGlite.defaultStartParams, ...keepNoLog, ...sortInMemory]
const db = await PGlite.create({ dataDir, startParams })
// One connection: the server would interleave the messages of several in one session.
const server = new PGLiteSocketServer({ db, path: socketPath, maxConnections: 1 })
await server.start()

parentPort?.once('message', async () => {
  await server.stop()
  await nextTurn() // the cleanup of a connection that has just closed still uses the database
  await db.close()
  parentPort?.close()
})
parentPort?.postMessage('listening')
