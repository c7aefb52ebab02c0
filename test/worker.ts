// Runs the test files, compiled next to it, whose names it reads from stdin, one after another.

import { createInterface } from 'node:readline'
import root from 'tap'
import { enterFile } from './helpers/file-test.js'

const timeout = Number(process.env.TAP_TIMEOUT) * 1000

root.setTimeout(0) // it counts for each file
createInterface(process.stdin).on('line', (file) =>
  root.test(file, { timeout }, async (t) => {
    enterFile(t)
    await import(file.replace(/^test\//, './').replace(/\.ts$/, '.js'))
  }),
)
