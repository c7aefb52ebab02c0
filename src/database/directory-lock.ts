// Lets one process at a time use a directory. The operating system holds the lock, so none outlives its holder.

import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The directory is in use; the message says what to do. */
export class DirectoryInUseError extends Error {
  override name = 'DirectoryInUseError'
}

/**
 * Locks `directory` (an absolute, real path) for this process; resolves with what releases it. Rejects with
 * DirectoryInUseError if another process of this machine has it.
 *
 * The lock is a listening socket named after the directory: an abstract one on Linux, a named pipe on Windows,
 * both gone with their process. Elsewhere it is a file, and one that nobody answers on is a dead process's.
 */
export async function lockDirectory(directory: string): Promise<() => Promise<void>> {
  const name = `boundary-usage-${createHash('sha256').update(directory).digest('hex').slice(0, 32)}`
  const address =
    process.platform === 'linux'
      ? `\0${name}`
      : process.platform === 'win32'
        ? `\\\\.\\pipe\\${name}`
        : join(tmpdir(), `${name}.sock`)

  const server = createServer((socket) => socket.destroy())
  try {
    await listen(server, address)
  } catch (error) {
    if (!isInUse(error)) throw error
    const stale = address.startsWith('/') && !(await answers(address))
    if (!stale)
      throw new DirectoryInUseError(
        `DATA_DIR: ${directory} is in use by another boundary-usage: stop that one, take another directory, or set DATABASE_URL`,
      )
    await rm(address, { force: true }) // its owner may be taking it away right now
    await listen(server, address)
  }
  server.unref()
  return async () => {
    server.close()
    await once(server, 'close')
  }
}

async function listen(server: Server, path: string): Promise<void> {
  server.listen({ path, exclusive: true })
  await once(server, 'listening')
}

async function answers(path: string): Promise<boolean> {
  const socket = connect(path)
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

function isInUse(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
}
