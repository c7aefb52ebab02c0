// Compiles the tests once for all processes that run them: loading TypeScript costs each of them a second.

import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { transform } from 'esbuild'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
/** As deep as test/, so that relative paths to other folders hold. */
const OUT = '.test'

/** An import from src/, as esbuild writes it. */
const FROM_SRC = /(\bfrom |\bimport |\bimport\()"((?:\.\.\/)+)src\//g

/** The compiled form of a file of test/, which imports dist/ instead of src/. */
export function compiled(file: string): string {
  return file.replace(/^test\//, `${OUT}/`).replace(/\.ts$/, '.js')
}

export async function compileTests(): Promise<void> {
  await rm(join(ROOT, OUT), { recursive: true, force: true })
  const entries = await readdir(join(ROOT, 'test'), { recursive: true, withFileTypes: true })
  await Promise.all(
    entries
      .filter((entry) => entry.isFile())
      .map(async (entry) => {
        const source = join(entry.parentPath, entry.name)
        const target = join(ROOT, compiled(source.slice(ROOT.length)))
        await mkdir(dirname(target), { recursive: true })
        if (entry.name.endsWith('.ts')) await writeFile(target, await compile(source))
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
  return code.replaceAll(FROM_SRC, '$1"$2dist/')
}
