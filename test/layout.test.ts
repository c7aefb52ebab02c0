// The direction of imports in src/: from the app down to the plain modules, and along the path of a log.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path/posix'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const SRC = fileURLToPath(new URL('../src/', import.meta.url))

/** In the order in which a log passes them. A concern may import the plain modules of those before it. */
const CONCERNS = ['ingest', 'counting', 'reporting', 'snapshots', 'delivery', 'status', 'page']
/** Only these files start the service; nothing below them imports them. */
const TOP = ['bin.ts', 'server.ts', 'app.ts', 'cli.ts']
const FASTIFY = /^(fastify|fastify-plugin|@fastify\/(?!error$).*)$/

/** Of every module, as a path in src/: what it imports, types included. */
const imports = new Map(
  readdirSync(SRC, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts'))
    .map((path) => [path, importsOf(path)] as const),
)

function importsOf(path: string): string[] {
  const text = readFileSync(join(SRC, path), 'utf8')
  const specifiers = [...text.matchAll(/(?:^import |\bfrom |\bimport\()'([^']+)'/gm)].map(
    ([, name = '']) => name,
  )
  return specifiers.map((name) =>
    name.startsWith('.') ? join(path, '..', name.replace(/\.js$/, '.ts')) : name,
  )
}

const folderOf = (path: string) => (path.includes('/') ? path.slice(0, path.indexOf('/')) : '')
const isLeaf = (path: string) => folderOf(path) === '' && !TOP.includes(path)
const isPlain = (path: string) => !/\/(plugin|routes)\.ts$/.test(path)

/** Why `from` may not import `to`, both in src/; undefined if it may. */
function violation(from: string, to: string): string | undefined {
  if (TOP.includes(from)) return undefined
  const [source, target] = [folderOf(from), folderOf(to)]
  if (TOP.includes(to)) return 'only the top imports the top'
  if (isLeaf(to)) return undefined
  if (isLeaf(from)) return 'a leaf imports leaves only'
  if (source === 'forwarder') return target === source ? undefined : 'the forwarder imports leaves only'
  if (target === 'forwarder') return 'the service does not import the forwarder'
  if (isPlain(from) && CONCERNS.includes(source) && !isPlain(to))
    return 'a plain module imports no plugin or route'
  if (source === target) return undefined
  if (!CONCERNS.includes(target))
    return source === 'database' ? 'the database imports leaves only' : undefined
  if (!CONCERNS.includes(source)) return `${source} imports no concern`
  if (CONCERNS.indexOf(target) > CONCERNS.indexOf(source)) return 'a concern imports none that comes after it'
  return isPlain(to) ? undefined : 'a concern imports only plain modules of another one'
}

/** The way by which `path` reaches Fastify, or undefined. */
function wayToFastify(path: string, seen = new Set<string>()): string[] | undefined {
  seen.add(path)
  for (const to of imports.get(path) ?? []) {
    if (FASTIFY.test(to)) return [path, to]
    const way = seen.has(to) ? undefined : wayToFastify(to, seen)
    if (way) return [path, ...way]
  }
  return undefined
}

t.test('imports point down, and along the path of a log', async (t) => {
  const violations = [...imports].flatMap(([from, all]) =>
    all
      .filter((to) => to.endsWith('.ts'))
      .map((to) => ({ from, to, why: violation(from, to) }))
      .filter(({ why }) => why !== undefined),
  )
  t.strictSame(violations, [])
  for (const [from, all] of imports)
    for (const to of all) if (to.endsWith('.ts')) t.ok(imports.has(to), `${from} imports ${to}, which exists`)
})

t.test('the plain modules of every concern, and of the database, know nothing of Fastify', async (t) => {
  const plain = [...imports.keys()].filter(
    (path) => isPlain(path) && [...CONCERNS, 'database', 'forwarder'].includes(folderOf(path)),
  )
  t.ok(plain.length > 15)
  t.strictSame(
    plain.map((path) => wayToFastify(path)).filter((way) => way !== undefined),
    [],
  )
})

t.test('no folder is unknown to these rules', async (t) => {
  const known = ['', 'http', 'database', 'forwarder', ...CONCERNS]
  t.strictSame(
    [...imports.keys()].filter((path) => !known.includes(folderOf(path))),
    [],
  )
})
