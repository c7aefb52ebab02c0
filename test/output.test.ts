// Output to a reader that stops: nothing waits, lines stay whole and in order, and what was dropped is reported.

import { execFileSync } from 'node:child_process'
import { closeSync, constants, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createOutput, type OutputOptions } from '../src/output.js'

/** An output into a pipe of the kernel, and a function that reads all that the pipe holds now. */
function pipe(t: Test, options: Partial<OutputOptions> = {}) {
  const path = join(t.testdir(), 'pipe')
  execFileSync('mkfifo', [path])
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const fd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK)
  const output = createOutput({ fd, reportDropped: (lines) => `dropped ${lines}\n`, ...options })
  let hasReader = true
  const closeReader = () => {
    if (hasReader) closeSync(reader)
    hasReader = false
  }
  // Without a reader it drops what it keeps. Otherwise it would write that into whatever gets the number of `fd` next.
  t.teardown(async () => {
    closeReader()
    await output.drain(1_000)
    closeSync(fd)
  })
  const read = () => {
    const chunk = Buffer.alloc(1_048_576)
    let text = ''
    for (;;) {
      try {
        const bytes = readSync(reader, chunk)
        if (bytes === 0) return text
        text += chunk.toString('latin1', 0, bytes)
      } catch {
        return text
      }
    }
  }
  return { output, read, closeReader }
}

const line = (n: number) => `${n} ${'x'.repeat(1_000)}\n`

t.test(
  'a reader that stopped gets all kept lines whole and in order, then the number of dropped ones',
  async (t) => {
    const { output, read } = pipe(t, { maxKeptBytes: 100_000 })
    for (let n = 0; n < 1_000; n++) output.write(line(n))
    let text = ''
    const drained = output.drain(10_000)
    for (let isDone = false; !isDone; ) {
      text += read()
      isDone = await Promise.race([
        drained.then(() => true),
        new Promise<false>((r) => setImmediate(r, false)),
      ])
    }
    text += read()
    const lines = text.split('\n').slice(0, -1)
    const numbers = lines.slice(0, -1).map((text, n) => (`${text}\n` === line(n) ? n : text))
    t.strictSame(numbers, [...numbers.keys()], 'lines 0, 1, 2 … without a gap')
    t.equal(lines.at(-1), `dropped ${1_000 - numbers.length}`)
    t.ok(numbers.length > 100, `${numbers.length} lines were kept or in the pipe`)
  },
)

t.test('a line written after the reader continues comes after the report', async (t) => {
  const { output, read } = pipe(t, { maxKeptBytes: 2_000 })
  for (let n = 0; n < 200; n++) output.write(line(n))
  const before = read().length
  t.ok(before > 0)
  output.write('after\n')
  const text = read()
  t.match(text, /\ndropped \d+\nafter\n$/)
})

t.test('a reader that is gone ends nothing', async (t) => {
  const { output, closeReader } = pipe(t)
  closeReader()
  t.doesNotThrow(() => {
    for (let n = 0; n < 2_000; n++) output.write(line(n))
  })
  await t.resolves(output.drain(1_000))
})

t.test('a reader that never continues does not hold up the end', async (t) => {
  const { output } = pipe(t)
  for (let n = 0; n < 200; n++) output.write(line(n))
  await t.resolves(output.drain(1))
})
