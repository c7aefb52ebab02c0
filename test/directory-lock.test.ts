// The lock of a directory: one live process holds it, whatever dead ones left.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { mkdtemp, readdir, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { InUseError, lockDirectory, lockPath } from '../src/directory-lock.js'

const MODULE = new URL('../dist/directory-lock.js', import.meta.url).href
const REFUSAL = 'it is in use'

async function directory(t: Test): Promise<string> {
  const path = await realpath(await mkdtemp(join(tmpdir(), 'boundary-usage-test-')))
  t.teardown(() => rm(path, { recursive: true, force: true }))
  return path
}

interface Starter {
  child: ChildProcess
  /** 'locked', or why not. */
  outcome: Promise<unknown>
}

/** A process that takes the lock when told to, and keeps it until it is killed. */
function starter(t: Test, path: string, launcher: string[] = []): Starter {
  const script = `
    const { lockDirectory } = await import(${JSON.stringify(MODULE)})
    process.on('message', () => {}) // lives until it is killed
    process.send(await lockDirectory(${JSON.stringify(path)}, ${JSON.stringify(REFUSAL)}).then(
      () => 'locked',
      (error) => String(error),
    ))`
  const [command = process.execPath, ...args] = [
    ...launcher,
    process.execPath,
    '--input-type=module',
    '-e',
    script,
  ]
  const child = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  t.teardown(() => kill(child))
  return { child, outcome: once(child, 'message').then(([outcome]) => outcome) }
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGKILL')
  await once(child, 'exit')
}

t.test(
  'a second holder is refused, within the process and from another one, until the first releases',
  async (t) => {
    const path = await directory(t)
    const release = await lockDirectory(path, REFUSAL)
    await t.rejects(lockDirectory(path, REFUSAL), new InUseError(REFUSAL))
    t.equal(await starter(t, path).outcome, `InUseError: ${REFUSAL}`)
    await release()
    await (await lockDirectory(path, REFUSAL))()
  },
)

t.test('of starters that race, exactly one holds the lock', async (t) => {
  const path = await directory(t)
  for (let round = 0; round < 5; round++) {
    const starters = Array.from({ length: 4 }, () => starter(t, path))
    const outcomes = await Promise.all(starters.map(({ outcome }) => outcome))
    t.strictSame(outcomes.toSorted(), [...Array(3).fill(`InUseError: ${REFUSAL}`), 'locked'])
    await Promise.all(starters.map(({ child }) => kill(child))) // the next round finds what they left
  }
  for (let round = 0; round < 50; round++) {
    const tries = await Promise.allSettled(Array.from({ length: 20 }, () => lockDirectory(path, REFUSAL)))
    const held = tries.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
    t.equal(held.length, 1)
    for (const release of held) await release()
  }
})

t.test('after SIGKILL the next start succeeds at once', async (t) => {
  const path = await directory(t)
  for (let round = 0; round < 3; round++) {
    const { child, outcome } = starter(t, path)
    t.equal(await outcome, 'locked')
    await kill(child)
  }
  await (await lockDirectory(path, REFUSAL))()
  t.strictSame(await readdir(path), [], 'and nothing of dead holders stays')
})

t.test('a file that is no socket holds nothing and is left alone', async (t) => {
  const path = await directory(t)
  await writeFile(join(path, 'lock.3'), 'not ours')
  await writeFile(join(path, 'lock'), 'not ours')
  await (await lockDirectory(path, REFUSAL))()
  t.strictSame((await readdir(path)).toSorted(), ['lock', 'lock.3'])
})

t.test('a path may be locked next to it, deeper than the address of a socket could be', async (t) => {
  const deep = join(await directory(t), ...Array<string>(8).fill('a'.repeat(60)))
  mkdirSync(deep, { recursive: true })
  const path = join(deep, 'boundary.sock')
  const release = await lockPath(path, REFUSAL)
  await t.rejects(lockPath(path, REFUSAL), new InUseError(REFUSAL))
  await (await lockPath(`${path}2`, REFUSAL))()
  await release()
})

t.test('a holder that is stopped still holds', async (t) => {
  const path = await directory(t)
  const { child, outcome } = starter(t, path)
  t.equal(await outcome, 'locked')
  child.kill('SIGSTOP')
  await t.rejects(lockDirectory(path, REFUSAL), new InUseError(REFUSAL))
})

t.test('the lock holds across network, mount and process namespaces', { skip: noNamespaces() }, async (t) => {
  const path = await directory(t)
  const apart = ['unshare', '--net', '--mount', '--pid', '--fork', '--kill-child']
  const { child, outcome } = starter(t, path, apart)
  t.equal(await outcome, 'locked')
  t.equal(await starter(t, path, apart).outcome, `InUseError: ${REFUSAL}`)
  await t.rejects(lockDirectory(path, REFUSAL), new InUseError(REFUSAL))
  await kill(child)
  t.equal(await starter(t, path, apart).outcome, 'locked')
})

function noNamespaces(): string | false {
  try {
    execFileSync('unshare', ['--net', '--mount', '--pid', '--fork', 'true'], { stdio: 'ignore' })
    return false
  } catch {
    return 'unshare cannot make namespaces here'
  }
}
