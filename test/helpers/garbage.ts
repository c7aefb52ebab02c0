// Forces garbage collections in the test's own process.

import { setImmediate as turn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect: unknown = runInNewContext('gc')

/** Collects whatever nothing references, over several turns of the event loop, as finalizers need. */
export async function collectGarbage(): Promise<void> {
  if (typeof collect !== 'function') throw new Error('this Node.js exposes no garbage collection')
  for (let n = 0; n < 5; n++) {
    collect()
    await turn()
  }
}
