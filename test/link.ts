// Copies dist/ to .dist/, in whose node_modules the packages that it imports are few files instead of 770. Node.js takes
// almost a second of CPU time to load all those, which each test file and each process that it starts would spend.

import { cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
/** As deep as dist/, so that relative paths to other folders hold. */
export const LINKED = '.dist'
const OUT = join(ROOT, LINKED)
const PACKAGES = join(OUT, 'node_modules')
const ENTRIES = join(OUT, 'entries')

/** They load files that lie next to their own. */
const NOT_LINKED = /^(@electric-sql\/.*|@fastify\/swagger-ui)$/

/** What each test file imports besides. It leaves functions of packages in this scope out of the stacks that it reports. */
const TEST_PACKAGE = 'tap'
const TEST_SCOPE = '@tapjs'

/** A static import of a package, as TypeScript writes it. */
const PACKAGE_IMPORT = /^import [^'\n]+ from '([^.'][^']*)';$/gm

/** Packages in CommonJS load the modules of Node.js with require(). */
const REQUIRE = `import { createRequire as from } from 'node:module'; const require = from(import.meta.url);`

export async function linkService(): Promise<void> {
  await rm(OUT, { recursive: true, force: true })
  await cp(join(ROOT, 'dist'), OUT, { recursive: true })
  await mkdir(ENTRIES)
  const imports = await findImports()
  const tests = {
    in: fileURLToPath(import.meta.resolve(TEST_PACKAGE)),
    out: `${TEST_SCOPE}/${TEST_PACKAGE}/index`,
  }
  await build({
    entryPoints: [tests, ...(await Promise.all(imports.map(writeEntry)))],
    outdir: PACKAGES,
    outExtension: { '.js': '.mjs' },
    banner: { js: REQUIRE },
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    logLevel: 'warning',
  })
  await symlink(join(TEST_SCOPE, TEST_PACKAGE), join(PACKAGES, TEST_PACKAGE))
  for (const name of new Set([...imports.map(packageOf), TEST_PACKAGE]))
    await writeFile(
      join(PACKAGES, name, 'package.json'),
      JSON.stringify({ name, exports: { '.': './index.mjs', './*': './*.mjs' } }),
    )
}

/** What the service imports from packages whenever it starts. */
async function findImports(): Promise<string[]> {
  const files = (await readdir(OUT, { recursive: true })).filter((name) => name.endsWith('.js'))
  const texts = await Promise.all(files.map((name) => readFile(join(OUT, name), 'utf8')))
  const names = texts.flatMap((text) => [...text.matchAll(PACKAGE_IMPORT)].map(([, name = '']) => name))
  return [...new Set(names)].filter((name) => !name.startsWith('node:') && !NOT_LINKED.test(name))
}

function packageOf(name: string): string {
  return name.split('/', name.startsWith('@') ? 2 : 1).join('/')
}

/** Writes a module that exports all that `name` does: esbuild does not know the names that CommonJS exports. */
async function writeEntry(name: string): Promise<{ in: string; out: string }> {
  const path = join(ENTRIES, `${name}.mjs`)
  const { default: standard, ...others }: Record<string, unknown> = await import(name)
  const lines = [
    `import * as all from '${name}'`,
    `export const { ${Object.keys(others).join(', ')} } = all`,
    ...(standard === undefined ? [] : ['export default all.default']),
  ]
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, lines.join('\n'))
  return { in: path, out: name === packageOf(name) ? `${name}/index` : name }
}
