// Compiles the tests once for all processes that run them: loading TypeScript costs each of them a second.

import { copyFile, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { transform } from 'esbuild'
import { LINKED } from './link.js'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
/** As deep as test/, so that relative paths to other folders hold. */
const OUT = '.test'

/** An import from src/ or a path to dist/, as esbuild writes it. */
const FROM_SRC = /(\bfrom |\bimport |\bimport\()"((?:\.\.\/)+)src\//g
const TO_DIST = /"((?:\.\.\/)+)dist\//g
const FROM_TAP = /(?<=^import t from )"tap"/m

/** The compiled form of a file of test/, which runs the linked copy of dist/ instead of src/. */
export function compiled(file: string): string {
  return file.replace(/^test\//, `${OUT}/`).replace(/\.ts$/, '.js')
}

export async function compileTests(): Promise<void> {
  await rm(join(ROOT, OUT), { recursive: true, force: true })
  await mkdir(join(ROOT, OUT))
  await symlink(join('..', LINKED, 'node_modules'), join(ROOT, OUT, 'node_modules'))
  const entries = await readdir(join(ROOT, 'test'), { recursive: true, withFileTypes: true })
  await Promise.all(
    entries
      .filter((entry) => entry.isFile())
      .map(async (entry) => {
        const source = join(entry.parentPath, entry.name)
        const target = join(ROOT, compiled(source.slice(ROOT.length)))
        await mkdir(dirname(target), { recursive: true })
        if (entry.name.endsWith('.test.ts')) await writeFile(target, ofGroup(await compile(source), target))
        else if (entry.name.endsWith('.ts')) await writeFile(target, await compile(source))
        else await copyFile(source, target)
      }),
  )
}

async function compile(source: string): Promise<string> {
  const { code } = await transform(await readFile(source), {
    loader: 'ts',
    format: 'esm',
    target: 'node20',
    sourcefile: source,
    sourcemap: 'inline',
    sourcesContent: false,
  })
  return code.replaceAll(FROM_SRC, `$1"$2${LINKED}/`).replaceAll(TO_DIST, `"$1${LINKED}/`)
}

/** Has a test file get its tests' parent from the group that runs it. */
function ofGroup(code: string, target: string): string {
  const helper = relative(dirname(target), join(ROOT, OUT, 'helpers/file-test.js'))
  return code.replace(FROM_TAP, JSON.stringify(helper.startsWith('.') ? helper : `./${helper}`))
}
