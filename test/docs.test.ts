// The documentation refers only to what exists: its links lead to files and headings, the tests it quotes are in test/.

import { access, readdir, readFile } from 'node:fs/promises'
import t from 'tap'
import { anchorsOf } from './helpers/markdown.js'

const ROOT = new URL('../', import.meta.url)
const read = (path: string) => readFile(new URL(path, ROOT), 'utf8')
const list = (path: string) => readdir(new URL(path, ROOT), { recursive: true })

const pages = [
  'README.md',
  ...(await list('docs')).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`),
]

/** The markdown without its code blocks and code spans, in which brackets are no links. */
const prose = (markdown: string) => markdown.replaceAll(/^ *```.*?^ *```/gms, '').replaceAll(/`[^`]*`/g, '')

t.test('every relative link leads to a file, and every anchor to a heading', async (t) => {
  let count = 0
  for (const page of pages) {
    const links = [...prose(await read(page)).matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = '']) => target)
    for (const link of links.filter((target) => !/^https?:/.test(target))) {
      count++
      const target = new URL(link, new URL(page, ROOT))
      const anchor = target.hash.slice(1)
      target.hash = ''
      await t.resolves(access(target), `${page}: ${link}`)
      if (anchor) t.ok(anchorsOf(await readFile(target, 'utf8')).has(anchor), `${page}: ${link}`)
    }
  }
  t.ok(count > 60, `${count} links`)
})

t.test('every test that guarantees.md quotes exists in the file it names', async (t) => {
  const files = (await list('test')).filter((name) => name.endsWith('.test.ts'))
  const quotes = (await read('docs/guarantees.md')).matchAll(
    /([\w-]+\.test\.ts): ("[^|]+?")(?=[;,.]? (?!"|and "))/g,
  )
  let count = 0
  for (const [, name = '', titles = ''] of quotes) {
    const paths = files.filter((path) => path.split('/').at(-1) === name)
    t.equal(paths.length, 1, `one file has the name ${name}`)
    const known = titlesIn(await read(`test/${paths[0]}`))
    for (const title of titles.slice(1, -1).split(/", "|" and "/)) {
      count++
      t.ok(
        known.some((pattern) => pattern.test(title)),
        `${name}: ${title}`,
      )
    }
  }
  t.ok(count > 30, `${count} titles`)
})

/** The titles of a file's tests. A placeholder of a template matches any text. */
function titlesIn(source: string): RegExp[] {
  return [...source.matchAll(/\.test\(\s*(['"`])((?:\\.|(?!\1).)*)\1/g)].map(([, , title = '']) => {
    const parts = title.replaceAll('\\', '').split(/\$\{.*?\}/)
    return new RegExp(`^${parts.map((part) => part.replaceAll(/[^\w ]/g, '\\$&')).join('.*')}$`)
  })
}
