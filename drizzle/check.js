// Exits with status 1 if src/database/schema.ts has changes that no migration contains. Changes nothing.

import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('.', import.meta.url))
const root = join(folder, '..')
const copy = mkdtempSync(join(tmpdir(), 'boundary-usage-drift-'))
try {
  cpSync(folder, copy, { recursive: true })
  execFileSync(
    process.execPath,
    [
      join(root, 'node_modules/drizzle-kit/bin.cjs'),
      'generate',
      '--dialect=postgresql',
      '--schema=src/database/schema.ts',
      `--out=${relative(root, copy)}`,
    ],
    { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] },
  )
  const migrations = (path) => readdirSync(path).filter((name) => name.endsWith('.sql'))
  if (migrations(copy).length !== migrations(folder).length) {
    process.stderr.write(
      'src/database/schema.ts has changes that no migration contains: run npm run db:generate\n',
    )
    process.exitCode = 1
  }
} finally {
  rmSync(copy, { recursive: true, force: true })
}
