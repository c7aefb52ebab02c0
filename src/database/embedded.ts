// The embedded PostgreSQL for those who bring none: PGlite in a worker thread, served over a unix socket.

import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, realpath, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Worker } from 'node:worker_threads'
import { lockDirectory } from '../directory-lock.js'

export interface Embedded {
  socketPath: string
  stop: () => Promise<void>
}

/** What the worker is started with. */
export interface WorkerInput {
  dataDir: string
  socketPath: string
}

const SUBDIRECTORY = 'postgres'

/** Whether an embedded server has its data in `dataDir`. */
export function hasEmbedded(dataDir: string): boolean {
  return existsSync(join(dataDir, SUBDIRECTORY))
}

/**
 * Starts the embedded server on `dataDir`, which it creates if need be. Rejects if another process has it.
 * A worker that dies later ends the process: without its database a single replica is of no use.
 */
export async function startEmbedded(dataDir: string, log: (message: string) => void): Promise<Embedded> {
  import.meta.resolve('@electric-sql/pglite') // rejects where it is not installed, before anything is made
  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  const root = await realpath(resolve(dataDir))
  const unlock = await lockDirectory(
    root,
    `DATA_DIR: ${root} is in use by another boundary-usage: stop that one, take another directory, or set DATABASE_URL`,
  )
  // A directory of our own that others cannot enter: the server asks for no password. Its path is short, as a
  // socket's must be, however deep the data lies.
  const socketDir = await mkdtemp(join(tmpdir(), 'boundary-usage-'))
  const input: WorkerInput = {
    dataDir: join(root, SUBDIRECTORY),
    socketPath: join(socketDir, '.s.PGSQL.5432'),
  }

  const first = !hasEmbedded(root)
  log(
    first
      ? `creating the embedded PostgreSQL in ${root}: takes some seconds`
      : `opening the embedded PostgreSQL in ${root}`,
  )
  const worker = new Worker(new URL('./embedded-worker.js', import.meta.url), { workerData: input })
  try {
    await once(worker, 'message') // rejects on the worker's error
  } catch (error) {
    await rm(socketDir, { recursive: true, force: true })
    await unlock()
    throw error
  }
  let isStopping = false
  let failure: Error | undefined
  worker.on('error', (error) => {
    failure = error
  })
  const exited = new Promise<void>((resolve) => {
    worker.once('exit', (code) => {
      resolve()
      if (!isStopping) throw failure ?? new Error(`the embedded PostgreSQL ended with code ${code}`)
    })
  })

  return {
    socketPath: input.socketPath,
    async stop() {
      isStopping = true
      worker.postMessage('stop')
      await exited
      await rm(socketDir, { recursive: true, force: true })
      await unlock()
    },
  }
}
