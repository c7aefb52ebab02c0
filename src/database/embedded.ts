// The embedded PostgreSQL, used without DATABASE_URL: PGlite in a worker thread, served over a unix socket.

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

/** The worker's input. */
export interface WorkerInput {
  dataDir: string
  socketPath: string
}

const SUBDIRECTORY = 'postgres'

/** Whether `dataDir` contains the data of an embedded server. */
export function hasEmbedded(dataDir: string): boolean {
  return existsSync(join(dataDir, SUBDIRECTORY))
}

/**
 * Starts the embedded server on `dataDir`, which it creates if necessary. Rejects if another process uses it. If the
 * worker fails later, the process ends: it cannot work without its database.
 */
export async function startEmbedded(dataDir: string, log: (message: string) => void): Promise<Embedded> {
  import.meta.resolve('@electric-sql/pglite') // throws if it is not installed, before anything is created
  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  const root = await realpath(resolve(dataDir))
  const unlock = await lockDirectory(
    root,
    `DATA_DIR: ${root} is in use by another boundary-usage: stop it, choose another directory, or set DATABASE_URL`,
  )
  // The server requires no password, so the socket lies in a directory that other users cannot enter. A socket's path
  // must be short, so it does not lie in the data directory.
  const socketDir = await mkdtemp(join(tmpdir(), 'boundary-usage-'))
  const input: WorkerInput = {
    dataDir: join(root, SUBDIRECTORY),
    socketPath: join(socketDir, '.s.PGSQL.5432'),
  }

  const first = !hasEmbedded(root)
  log(
    first
      ? `creating the embedded PostgreSQL in ${root}: this takes some seconds`
      : `opening the embedded PostgreSQL in ${root}`,
  )
  const worker = new Worker(new URL('./embedded-worker.js', import.meta.url), { workerData: input })
  try {
    await once(worker, 'message') // rejects if the worker fails
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
      if (!isStopping) throw failure ?? new Error(`the embedded PostgreSQL exited with status ${code}`)
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
