// Copies dist/ to .dist/, and bundles there its programs and, in node_modules, the packages that it imports: few files
// instead of 900. Node.js takes a second of CPU time to load all those, which each test file and each process that it
// starts would spend.

import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build, type Plugin } from 'esbuild'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
/** As deep as dist/, so that relative paths to other folders hold. */
export const LINKED = '.dist'
const BUILT = join(ROOT, 'dist')
const OUT = join(ROOT, LINKED)
const PACKAGES = 'node_modules'
const ENTRIES = join(OUT, 'entries')

/** What tests start as processes; they import the other modules. */
const PROGRAMS = ['bin', 'server']

/** A worker thread loads them, or they are optional. */
const NOT_LINKED = ['@electric-sql/*', 'pino-pretty']

/** What each test file imports besides. It leaves functions of packages in this scope out of the stacks that it reports. */
const TEST_PACKAGE = 'tap'
const TEST_SCOPE = '@tapjs'
/** What tap finds the test of an error with, by following each promise of the process. */
const DOMAINS = 'async-hook-domain'

/** A static import of a package, as TypeScript writes it. */
const PACKAGE_IMPORT = /^import [^'\n]+ from '([^.'][^']*)';$/gm

/** Packages in CommonJS load the modules of Node.js with require(), and have no import.meta. */
const BANNER = `import { createRequire as from } from 'node:module'
const bundleUrl = import.meta.url; const require = from(bundleUrl);`

/** Returns the module that each import of a package leads to, by what is imported. */
export async function linkService(): Promise<Map<string, string>> {
  await rm(OUT, { recursive: true, force: true })
  await cp(BUILT, OUT, { recursive: true })
  await mkdir(ENTRIES)
  const imports = await findImports()
  const modules = new Map(imports.map((name) => [name, join(LINKED, `${pathOf(name)}.js`)]))
  const tests = {
    in: fileURLToPath(import.meta.resolve(TEST_PACKAGE)),
    out: join(PACKAGES, TEST_SCOPE, TEST_PACKAGE, 'index'),
  }
  await build({
    entryPoints: [
      tests,
      ...(await Promise.all(imports.map(writeEntry))),
      ...PROGRAMS.map((name) => ({ in: join(BUILT, `${name}.js`), out: name })),
    ],
    outdir: OUT,
    banner: { js: BANNER },
    bundle: true,
    splitting: true,
    external: NOT_LINKED,
    alias: { [DOMAINS]: join(ROOT, 'test/helpers/domain.ts') },
    format: 'esm',
    platform: 'node',
    target: 'node20',
    logLevel: 'warning',
    plugins: [knownPlaces],
  })
  for (const name of new Set(imports.map(packageOf)))
    await writeFile(
      join(OUT, PACKAGES, name, 'package.json'),
      JSON.stringify({ name, type: 'module', exports: { '.': './index.js', './*': './*.js' } }),
    )
  return modules.set(TEST_PACKAGE, join(LINKED, `${tests.out}.js`))
}

/** Writes into files that look for others next to them where those lie, from OUT, in which the bundles are. */
const knownPlaces: Plugin = {
  name: 'known places',
  setup({ onLoad }) {
    onLoad({ filter: /\/dist\/.*\.js$/ }, async ({ path }) => {
      if (!path.startsWith(BUILT)) return undefined
      const url = `new URL(${JSON.stringify(relative(BUILT, path))}, bundleUrl).href`
      return { contents: (await readFile(path, 'utf8')).replaceAll('import.meta.url', url) }
    })
    onLoad({ filter: /\/@fastify\/swagger-ui\/.*\.js$/ }, async ({ path }) => ({
      contents: (await readFile(path, 'utf8')).replaceAll(
        '__dirname',
        `require('node:url').fileURLToPath(new URL(${JSON.stringify(relative(OUT, dirname(path)))}, bundleUrl))`,
      ),
    }))
  },
}

/** What the service imports from packages whenever it starts. */
async function findImports(): Promise<string[]> {
  const files = (await readdir(OUT, { recursive: true })).filter((name) => name.endsWith('.js'))
  const texts = await Promise.all(files.map((name) => readFile(join(OUT, name), 'utf8')))
  const names = texts.flatMap((text) => [...text.matchAll(PACKAGE_IMPORT)].map(([, name = '']) => name))
  return [...new Set(names)].filter((name) => !/^(node:|@electric-sql\/)/.test(name))
}

function packageOf(name: string): string {
  return name.split('/', name.startsWith('@') ? 2 : 1).join('/')
}

/** Where the bundle of an import lies in LINKED, without its suffix. */
function pathOf(name: string): string {
  return join(PACKAGES, name === packageOf(name) ? join(name, 'index') : name)
}

/** Writes a module that exports all that `name` does: esbuild does not know the names that CommonJS exports. */
async function writeEntry(name: string): Promise<{ in: string; out: string }> {
  const path = join(ENTRIES, `${name}.mjs`)
  const { default: standard, ...others }: Record<string, unknown> = await import(name)
  // Node.js 23 and later add 'module.exports' to what a CommonJS module exports.
  const names = Object.keys(others).filter((name) => name !== 'module.exports')
  const lines = [
    `import * as all from '${name}'`,
    `export const { ${names.join(', ')} } = all`,
    ...(standard === undefined ? [] : ['export default all.default']),
  ]
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, lines.join('\n'))
  return { in: path, out: pathOf(name) }
}
