// The embedded PostgreSQL, used without DATABASE_URL: PGlite in a worker thread, served over a unix socket.

import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, realpath, rm, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Worker } from 'node:worker_threads'
import { lockDirectory } from '../directory-lock.js'
import { StartError } from '../start-error.js'

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
/** The major version of PostgreSQL that PGlite contains. */
const POSTGRES_VERSION = '18'
/** Less is too little for PostgreSQL to start or to create its data. */
const MIN_FREE_BYTES = 32 * 1_048_576

/** Whether `dataDir` contains the data of an embedded server. */
export function hasEmbedded(dataDir: string): boolean {
  return existsSync(join(dataDir, SUBDIRECTORY))
}

/**
 * Starts the embedded server on `dataDir`, which it creates if necessary. Rejects with StartError if it cannot use that
 * directory, or if another process uses it. If the worker fails later, the process ends: it cannot work without its
 * database.
 */
export async function startEmbedded(dataDir: string, log: (message: string) => void): Promise<Embedded> {
  import.meta.resolve('@electric-sql/pglite') // throws if it is not installed, before anything is created
  const root = resolve(dataDir)
  try {
    return await startIn(root, log)
  } catch (error) {
    if (error instanceof StartError) throw error
    throw new StartError(
      `DATA_DIR: cannot use ${root}: ${await reasonOf(error, root)}: choose another directory, or set DATABASE_URL`,
    )
  }
}

async function startIn(dataDir: string, log: (message: string) => void): Promise<Embedded> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  const root = await realpath(dataDir)
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

  const release = async (error: unknown): Promise<never> => {
    await rm(socketDir, { recursive: true, force: true })
    await unlock()
    throw error
  }

  const first = !hasEmbedded(root)
  if (!first) await checkVersion(input.dataDir).catch(release)
  log(
    first
      ? `creating the embedded PostgreSQL in ${root}: this takes some seconds`
      : `opening the embedded PostgreSQL in ${root}`,
  )
  const worker = new Worker(new URL('./embedded-worker.js', import.meta.url), { workerData: input })
  try {
    await once(worker, 'message') // rejects if the worker fails
  } catch (error) {
    await release(error)
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

async function checkVersion(dataDir: string): Promise<void> {
  const version = (await readFile(join(dataDir, 'PG_VERSION'), 'utf8')).trim()
  if (version !== POSTGRES_VERSION)
    throw new StartError(
      `DATA_DIR: ${dataDir} holds data of PostgreSQL ${version}, and this version of boundary-usage runs ${POSTGRES_VERSION}: choose another directory, or set DATABASE_URL`,
    )
}

const REASONS = new Map([
  ['EACCES', 'permission denied'],
  ['EPERM', 'permission denied'],
  ['EROFS', 'the file system is read-only'],
  ['EEXIST', 'it is a file'],
  ['ENOTDIR', 'a part of the path is a file'],
  ['ENOSPC', 'no space is left on the device'],
  ['EDQUOT', 'the disk quota is exhausted'],
])

/** PGlite reports a full disk in many ways, so the free space itself is looked at. */
async function reasonOf(error: unknown, dataDir: string): Promise<string> {
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  const known = REASONS.get(code)
  if (known !== undefined) return known
  const { bavail, bsize } = await statfs(dataDir).catch(() => ({ bavail: Infinity, bsize: 1 }))
  if (bavail * bsize < MIN_FREE_BYTES) return 'no space is left on the device'
  return error instanceof Error ? (error.message.split('\n')[0] ?? error.name) : String(error)
}
