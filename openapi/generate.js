// Generates openapi.json from the routes of the build in dist/. With --check, exits with status 1 if it is out of date.

import { readFile, writeFile } from 'node:fs/promises'
import { buildApp } from '../dist/app.js'
import { parseConfig } from '../dist/config.js'

const file = new URL('openapi.json', import.meta.url)

// No database is needed: only the routes are read.
const app = await buildApp(
  parseConfig({
    DATABASE_URL: 'postgres://127.0.0.1:1/none',
    LOG_LEVEL: 'silent',
    SNAPSHOT_INTERVAL_MS: '0',
  }),
)
await app.ready()
const generated = `${JSON.stringify(app.swagger(), null, 2)}\n`
await app.close()

if (process.argv.includes('--check')) {
  const committed = await readFile(file, 'utf8').catch(() => '')
  if (committed !== generated) {
    process.stderr.write('openapi/openapi.json is out of date: run npm run openapi\n')
    process.exit(1)
  }
} else {
  await writeFile(file, generated)
}
process.exit(0)
