// What test files get as the default export of tap, because several run in one process: the test that is their file.

import root, { Test } from 'tap'

let current: Test = root

/** From now on, tests belong to this file. */
export function enterFile(t: Test): void {
  current = t
}

/** The test that is running, inside of all others that are. */
let running: Test = root
follow(root)

function follow(t: Test): void {
  t.on('subtestStart', (subtest) => {
    if (!(subtest instanceof Test)) return
    running = subtest
    follow(subtest)
  })
  // The next one may have started by then.
  t.on('subtestEnd', (subtest) => {
    if (running === subtest) running = t
  })
}

/** Gets unhandled rejections, too. */
process.setUncaughtExceptionCaptureCallback((error: unknown) => running.threw(error))

export default new Proxy<Test>(root, {
  get: (_, name) => {
    const value = Reflect.get(current, name, current)
    return typeof value === 'function' ? value.bind(current) : value
  },
  set: (_, name, value) => Reflect.set(current, name, value, current),
})
