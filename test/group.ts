// Runs test files, which are compiled next to it, one after another in one process.

import root from 'tap'
import { enterFile } from './helpers/file-test.js'

const timeout = Number(process.env.TAP_TIMEOUT) * 1000

root.setTimeout(0) // it counts for each file
for (const file of process.argv.slice(2))
  root.test(file, { timeout }, async (t) => {
    enterFile(t)
    await import(file.replace(/^test\//, './').replace(/\.ts$/, '.js'))
  })
