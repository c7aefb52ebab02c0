// Compiles the tests once for all processes that run them: loading TypeScript costs each of them a second.

import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { transform } from 'esbuild'
import { LINKED } from './link.js'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
/** As deep as test/, so that relative paths to other folders hold. */
const OUT = '.test'

/** What is imported, and a path to dist/, as esbuild writes them. */
const IMPORTED = /(?<=\b(?:from |import |import\())"([^"\n]+)"/g
const TO_DIST = /"((?:\.\.\/)+)dist\//g
const SRC = join(ROOT, 'src/')

/** The compiled form of a file of test/, which runs the linked copy of dist/ instead of src/. */
export function compiled(file: string): string {
  return file.replace(/^test\//, `${OUT}/`).replace(/\.ts$/, '.js')
}

/** `modules` are what packages are imported from instead, by name. */
export async function compileTests(modules: Map<string, string>): Promise<void> {
  await rm(join(ROOT, OUT), { recursive: true, force: true })
  await mkdir(join(ROOT, OUT))
  const entries = await readdir(join(ROOT, 'test'), { recursive: true, withFileTypes: true })
  await Promise.all(
    entries
      .filter((entry) => entry.isFile())
      .map(async (entry) => {
        const source = join(entry.parentPath, entry.name)
        const target = join(ROOT, compiled(source.slice(ROOT.length)))
        await mkdir(dirname(target), { recursive: true })
        if (entry.name.endsWith('.ts')) await writeFile(target, await compile(source, target, modules))
        else await copyFile(source, target)
      }),
  )
}

async function compile(source: string, target: string, modules: Map<string, string>): Promise<string> {
  const { code } = await transform(await readFile(source), {
    loader: 'ts',
    format: 'esm',
    target: 'node20',
    sourcefile: source,
    sourcemap: 'inline',
    sourcesContent: false,
  })
  const linked = (name: string) => {
    // A test file gets the parent of its tests from the worker that runs it.
    if (name === 'tap' && source.endsWith('.test.ts')) return `${OUT}/helpers/file-test.js`
    const path = join(dirname(source), name)
    return path.startsWith(SRC) ? join(LINKED, path.slice(SRC.length)) : modules.get(name)
  }
  return code
    .replace(IMPORTED, (all, name: string) => {
      const path = linked(name)
      return path === undefined ? all : JSON.stringify(`./${relative(dirname(target), join(ROOT, path))}`)
    })
    .replaceAll(TO_DIST, `"$1${LINKED}/`)
}
