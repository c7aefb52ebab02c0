// What test files get as the default export of tap, where several run in one process: the test that is their file.

import root, { type Test } from 'tap'

let current: Test = root

/** From now on, tests belong to this file. */
export function enterFile(t: Test): void {
  current = t
}

export default new Proxy<Test>(root, {
  get: (_, name) => {
    const value = Reflect.get(current, name, current)
    return typeof value === 'function' ? value.bind(current) : value
  },
  set: (_, name, value) => Reflect.set(current, name, value, current),
})
