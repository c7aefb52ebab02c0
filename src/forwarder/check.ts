// --check and --wait: what an operator, or a start-up script, asks before boundaries are started.

import { randomUUID } from 'node:crypto'
import { access, constants, open, unlink } from 'node:fs/promises'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { pause } from '../async.js'
import type { Settings } from './config.js'
import { Credentials } from './credentials.js'
import { Client } from './post.js'
import { prepareDirectory } from './spool.js'
import { batchOf } from './wire.js'

const POLL_MS = 100
/** A forwarder starts within a second; whoever waits longer wants to know. */
export const WAIT_LIMIT_MS = 60_000

/** Tests each part of the settings, prints a line for each, and returns whether all work. */
export async function check(settings: Settings, print: (line: string) => void): Promise<boolean> {
  let isFine = true
  const report = async (what: string, test: () => Promise<string>) => {
    try {
      print(`ok      ${what}: ${await test()}`)
    } catch (error) {
      isFine = false
      print(`failed  ${what}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }

  const credentials = new Credentials({ ...settings, file: settings.tokenFile })
  const { workspaceId, ownerId } = credentials.ids
  await report('token', async () => {
    const what =
      settings.token === undefined ? 'none' : settings.ids === undefined ? 'a JWT' : 'a plain token'
    return `${what}, for workspace ${workspaceId} and owner ${ownerId}`
  })
  const client = new Client()
  for (const url of settings.urls)
    await report(`service ${url.href}`, async () => {
      const outcome = await client.post(url, batchOf(randomUUID(), []), credentials.ids, credentials.token)
      if (outcome.kind !== 'accepted') throw new Error(`it does not accept an empty batch: ${outcome.reason}`)
      return 'it accepts an empty batch'
    })
  client.close()
  await report(`socket ${settings.socket}`, async () => {
    await access(dirname(settings.socket), constants.W_OK)
    return 'its directory can be written'
  })
  const { spool, tee } = settings
  if (spool !== undefined)
    await report(`spool ${spool}`, async () => {
      await prepareDirectory(spool)
      const probe = join(spool, `.check-${randomUUID()}`)
      const handle = await open(probe, 'wx', 0o600)
      try {
        await handle.write('x')
      } finally {
        await handle.close()
        await unlink(probe)
      }
      return 'it can be written'
    })
  if (tee !== undefined)
    await report(`tee ${tee}`, async () => {
      await tryConnecting(tee)
      return 'somebody accepts connections'
    })
  return isFine
}

/** Resolves with true once somebody accepts connections on the socket, with false if nobody does in time. */
export async function waitFor(socket: string, limitMs = WAIT_LIMIT_MS): Promise<boolean> {
  const began = performance.now()
  while (performance.now() - began < limitMs) {
    try {
      await tryConnecting(socket)
      return true
    } catch {
      await pause(POLL_MS)
    }
  }
  return false
}

function tryConnecting(path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve()
    })
    socket.once('error', reject)
  })
}
