// A DATA_DIR that cannot be used: one line that says why and what to do, and nothing is left behind.

import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { startEmbedded } from '../../src/database/embedded.js'
import { StartError } from '../../src/start-error.js'

const REMEDY = 'choose another directory, or set DATABASE_URL'

async function problem(dataDir: string): Promise<string> {
  try {
    const { stop } = await startEmbedded(dataDir, () => {})
    await stop()
    return 'started'
  } catch (error) {
    if (!(error instanceof StartError)) throw error
    return error.message
  }
}

t.test('a file, and a path below a file', async (t) => {
  const file = join(t.testdir({ file: '' }), 'file')
  t.equal(await problem(file), `DATA_DIR: cannot use ${file}: it is a file: ${REMEDY}`)
  t.equal(
    await problem(join(file, 'below')),
    `DATA_DIR: cannot use ${join(file, 'below')}: a part of the path is a file: ${REMEDY}`,
  )
})

t.test('data of another version of PostgreSQL, which stays as it was', async (t) => {
  const dataDir = t.testdir()
  await mkdir(join(dataDir, 'postgres'))
  await writeFile(join(dataDir, 'postgres', 'PG_VERSION'), '15\n')
  t.equal(
    await problem(dataDir),
    `DATA_DIR: ${join(dataDir, 'postgres')} holds data of PostgreSQL 15, and this version of boundary-usage runs 18: ${REMEDY}`,
  )
  t.strictSame(await readdir(dataDir, { recursive: true }), ['postgres', join('postgres', 'PG_VERSION')])
})

t.test('data that PostgreSQL cannot open', async (t) => {
  const dataDir = t.testdir()
  await mkdir(join(dataDir, 'postgres'))
  t.equal(
    await problem(dataDir),
    `DATA_DIR: cannot use ${dataDir}: ENOENT: no such file or directory, open '${join(dataDir, 'postgres', 'PG_VERSION')}': ${REMEDY}`,
  )
})
