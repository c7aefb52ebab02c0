// Lets one process at a time use a directory, or a path in one. The lock lies in the directory and ends with its
// process, so it holds across containers that share a volume and needs no cleaning up after SIGKILL.
//
//   lock.7          a unix socket on which the holder listens; a connection attempt shows whether it is alive
//   lock.~3f9c…     a candidate that is about to become lock.8

import { createHash, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { link, lstat, readdir, realpath, unlink } from 'node:fs/promises'
import { connect, createServer, type Server } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { StartError } from './start-error.js'

/** Another live process holds the lock. */
export class InUseError extends StartError {
  override name = 'InUseError'
}

/** Each try that fails means that another starter made progress. */
const MAX_TRIES = 20

/** Locks `directory`, which exists, for this process, as lockPath() locks a path. */
export function lockDirectory(directory: string, refusal: string): Promise<() => Promise<void>> {
  return lockPath(join(directory, 'lock'), refusal)
}

/**
 * Locks `path` by files next to it whose names begin with it. Resolves with what releases the lock; rejects with
 * InUseError, whose message is `refusal`, if another live process holds it.
 *
 * A claim is a numbered file, made by a hard link, which only one process can create under one name:
 *
 * 1. A candidate listens on a socket with a random name, so its claim answers from the moment it exists.
 * 2. If any claim answers, the lock is held. If all refuse connections, their processes are dead.
 * 3. It links its socket to the number after the highest. Of several candidates one succeeds; the others start again.
 * 4. It looks once more for another claim that answers. There is one only if claims have come and gone since 2; then
 *    it withdraws. Of two processes that both pass 2 and 3, the later one sees the other here, so one holds at most.
 *
 * Only the holder removes dead claims, so whatever it removes by mistake is no holder's.
 */
export async function lockPath(path: string, refusal: string): Promise<() => Promise<void>> {
  if (process.platform === 'win32') return lockPipe(await realpath(dirname(path)), basename(path), refusal)
  const folder = openFolder(dirname(path), basename(path))
  const candidate = `~${randomUUID().slice(0, 8)}`
  const server = createServer((socket) => socket.destroy())
  const stop = async () => {
    await close(server)
    folder.close()
  }
  try {
    await listen(server, folder.at(candidate))
    const claimed = await claim(folder, candidate, refusal).finally(() => remove(folder.at(candidate)))
    server.unref()
    return async () => {
      await remove(folder.at(claimed))
      await stop()
    }
  } catch (error) {
    await stop()
    throw error
  }
}

async function claim(folder: Folder, candidate: string, refusal: string): Promise<number> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const dead = await folder.claims()
    if (await anyAnswers(folder, dead)) break
    const mine = Math.max(0, ...dead) + 1
    try {
      await link(folder.at(candidate), folder.at(mine))
    } catch (error) {
      if (hasCode(error, 'EEXIST')) continue
      throw error
    }
    const others = (await folder.claims()).filter((other) => other !== mine)
    if (await anyAnswers(folder, others)) {
      await remove(folder.at(mine))
      continue
    }
    for (const old of dead) await removeSocket(folder.at(old))
    return mine
  }
  throw new InUseError(refusal)
}

async function anyAnswers(folder: Folder, claims: number[]): Promise<boolean> {
  for (const claim of claims) if (await answers(folder.at(claim))) return true
  return false
}

/** Whether a process listens there. A refused connection proves that none does; anything else might be one. */
async function answers(path: string): Promise<boolean> {
  const socket = connect(path)
  try {
    await once(socket, 'connect')
    return true
  } catch (error) {
    return !(hasCode(error, 'ECONNREFUSED') || hasCode(error, 'ENOENT'))
  } finally {
    socket.destroy()
  }
}

/** Another user's dead claim may have to stay; a file that is no socket is not ours. */
async function removeSocket(path: string): Promise<void> {
  try {
    if ((await lstat(path)).isSocket()) await unlink(path)
  } catch (error) {
    if (!['ENOENT', 'EPERM', 'EACCES'].some((code) => hasCode(error, code))) throw error
  }
}

async function remove(path: string): Promise<void> {
  try {
    await unlink(path)
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
  }
}

/** Where the files of one lock lie, under paths that are short enough for a socket however deep the directory lies. */
interface Folder {
  at(suffix: string | number): string
  /** The numbers that are claimed. */
  claims(): Promise<number[]>
  close(): void
}

function openFolder(directory: string, name: string): Folder {
  // Not a FileHandle: it would be closed when nothing but the socket refers to it.
  const fd = process.platform === 'linux' ? openSync(directory, 'r') : undefined
  const root = fd === undefined ? directory : `/proc/self/fd/${fd}`
  return {
    at: (suffix) => join(root, `${name}.${suffix}`),
    async claims() {
      const files = await readdir(root)
      const suffixes = files.flatMap((file) =>
        file.startsWith(`${name}.`) ? [file.slice(name.length + 1)] : [],
      )
      return suffixes.filter((suffix) => /^[1-9]\d{0,14}$/.test(suffix)).map(Number)
    },
    close: () => fd !== undefined && closeSync(fd),
  }
}

/** Windows has no sockets in directories; a named pipe is gone with its process. */
async function lockPipe(directory: string, name: string, refusal: string): Promise<() => Promise<void>> {
  const id = createHash('sha256').update(join(directory, name)).digest('hex').slice(0, 32)
  const server = createServer((socket) => socket.destroy())
  try {
    await listen(server, `\\\\.\\pipe\\boundary-usage-${id}`)
  } catch (error) {
    throw hasCode(error, 'EADDRINUSE') ? new InUseError(refusal) : error
  }
  server.unref()
  return () => close(server)
}

async function listen(server: Server, path: string): Promise<void> {
  server.listen({ path, exclusive: true })
  await once(server, 'listening')
}

async function close(server: Server): Promise<void> {
  if (!server.listening) return
  server.close()
  await once(server, 'close')
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
