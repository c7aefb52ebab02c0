// Runs test files, which are compiled next to it, one after another in one process. An environment variable names them: tap
// would add arguments to the names of directories that tests use.

import root from 'tap'
import { enterFile } from './helpers/file-test.js'

const { TAP_TIMEOUT, BOUNDARY_USAGE_TEST_FILES: files = '' } = process.env
const timeout = Number(TAP_TIMEOUT) * 1000

root.setTimeout(0) // it counts for each file
for (const file of files.split(' '))
  root.test(file, { timeout }, async (t) => {
    enterFile(t)
    await import(file.replace(/^test\//, './').replace(/\.ts$/, '.js'))
  })
