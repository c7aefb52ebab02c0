// The one PostgreSQL that all test files share, and how they find it.

import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

const FILE = fileURLToPath(new URL('../../.tap/postgres.json', import.meta.url))

export interface SharedServer {
  url: string
  home: string
  pid: number
}

/** The migrated database that each test file's own is cloned from. */
export const TEMPLATE = 'template_boundary_usage'

export async function publishServer({ url, home, pid }: SharedServer): Promise<void> {
  await mkdir(new URL('.', `file://${FILE}`), { recursive: true })
  await writeFile(FILE, JSON.stringify({ url, home, pid }), { mode: 0o600 })
}

export async function findServer(): Promise<SharedServer> {
  return JSON.parse(await readFile(FILE, 'utf8')) as SharedServer
}

/** Stops the published server and removes it; does nothing if there is none. */
export async function removeServer(): Promise<void> {
  const server = await findServer().catch(() => undefined)
  if (!server) return
  // The postmaster's id may have been given to another process since: only one that is still there is ended.
  const alive = await readFile(`${server.home}/data/postmaster.pid`, 'utf8').catch(() => '')
  if (alive.startsWith(`${server.pid}\n`)) {
    try {
      process.kill(server.pid, 'SIGQUIT')
    } catch {} // gone already
  }
  await rm(server.home, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 })
  await rm(FILE, { force: true })
}
