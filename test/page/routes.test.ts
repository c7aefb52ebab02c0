// How the status page is served: only its own files, with headers that allow no other source.

import { readdir, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { testDatabase } from '../helpers/database.js'
import { anchorsOf } from '../helpers/markdown.js'
import { exchange } from '../helpers/raw.js'
import { type Replica, startReplica } from '../helpers/replica.js'

const source = fileURLToPath(new URL('../../src/page/assets/', import.meta.url))

/** The page and everything that it references, directly or indirectly, by path. */
async function crawl(replica: Replica): Promise<Map<string, { response: Response; text: string }>> {
  const found = new Map<string, { response: Response; text: string }>()
  const queue = ['/']
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    if (found.has(path)) continue
    const response = await replica.get(path)
    const text = await response.text()
    found.set(path, { response, text })
    const links = path === '/' ? /<(?:link|script)[^>]+?(?:href|src)="([^"]+)"/g : /from '(\.[^']+)'/g
    for (const [, link = ''] of text.matchAll(links))
      queue.push(new URL(link, `${replica.url}${path}`).pathname)
  }
  return found
}

t.test(
  'the page and its files are served with types, ETags and a strict content security policy',
  async (t) => {
    const { url } = await testDatabase(t)
    const replica = await startReplica(t, url, {
      AGENT_TOKENS: 'agent-token-agent-token-1',
      ADMIN_TOKENS: 'admin-token-admin-token-1',
    })
    const files = await crawl(replica)
    const own = (await readdir(source)).filter((name) => name !== 'index.html' && !name.endsWith('.d.ts'))
    t.strictSame(
      [...files.keys()].sort(),
      ['/', ...[...own, 'uplot.js', 'uplot.css'].map((name) => `/page/${name}`)].sort(),
      'every file of src/page/assets and uPlot is referenced',
    )
    const types = { '/': 'text/html', css: 'text/css', js: 'text/javascript', svg: 'image/svg+xml' }
    for (const [path, { response }] of files) {
      t.equal(response.status, 200, path)
      const type = types[(path.split('.')[1] ?? '/') as keyof typeof types]
      t.ok(response.headers.get('content-type')?.startsWith(type), `${path} is ${type}`)
      t.hasStrict(Object.fromEntries(response.headers), {
        'content-security-policy':
          "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
          "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'",
        'x-content-type-options': 'nosniff',
        'referrer-policy': 'no-referrer',
        'cache-control': 'no-cache',
      })
      const etag = response.headers.get('etag') ?? ''
      const again = await replica.get(path, { 'if-none-match': etag })
      t.equal(again.status, 304, path)
      t.equal(await again.text(), '')
      t.equal((await replica.get(path, { 'if-none-match': '"other"' })).status, 200, path)
    }
  },
)

t.test('no file refers to another host or contains inline scripts or styles', async (t) => {
  const { url } = await testDatabase(t)
  for (const [path, { text }] of await crawl(await startReplica(t, url))) {
    // The SVG namespace, the URLs of the sample batch and links in uPlot's comments are never requested.
    const code = path === '/page/uplot.js' ? text.replaceAll(/^\s*(?:\/\/|\*).*$/gm, '') : text
    const hosts = [...code.matchAll(/\b(?:https?:)?\/\/([\w.-]+\.[a-z]+)/g)].map(([, host = '']) => host)
    t.strictSame(
      hosts.filter((host) => !['www.w3.org', 'example.com', 'example.org'].includes(host)),
      [],
      path,
    )
    t.notMatch(text, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|localStorage/, path)
    if (path !== '/page/api.js') t.notMatch(text, 'sessionStorage', path)
    if (path === '/') t.notMatch(text, /<style|\sstyle=|\son\w+=|<script>/)
  }
})

t.test('the manual is served with its headings as anchors, and its links to them', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const manual = await readFile(new URL('../../docs/operating.md', import.meta.url), 'utf8')
  const response = await replica.get('/docs/operating.md')
  t.equal(response.headers.get('content-type'), 'text/html; charset=utf-8')
  t.match(response.headers.get('content-security-policy'), /^default-src 'none'/)
  const html = await response.text()
  const ids = [...html.matchAll(/ id="([^"]+)"/g)].map(([, id = '']) => id)
  t.strictSame(ids, [...anchorsOf(manual)])
  const links = [...html.matchAll(/<a href="#([^"]+)">/g)].map(([, anchor = '']) => anchor)
  t.ok(links.length > 10)
  for (const anchor of links) t.ok(ids.includes(anchor), anchor)
  t.match(html, '&lt;pid&gt;', 'what looks like markup is escaped')
})

t.test('no path serves any other file from the disk', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const path of [
    '/page',
    '/page/',
    '/page/index.html',
    '/page/uplot.d.ts',
    '/page/uPlot.esm.js',
    '/index.html',
    '/package.json',
    '/page/../package.json',
    '/page/../../package.json',
    '/page/%2e%2e/%2e%2e/package.json',
    '/page/..%2f..%2fpackage.json',
    '/page/..%5c..%5cpackage.json',
    '//etc/passwd',
    '/page/%00',
  ]) {
    const response = await exchange(
      replica.url,
      `GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`,
    )
    t.match(response, /^HTTP\/1\.1 40[04] /, path)
    t.match(response, /"statusCode":40[04]/, path)
    t.notMatch(response, /"dependencies"/, path)
  }
})

t.test('the build contains the page', async (t) => {
  for (const name of await readdir(source))
    t.equal(
      await readFile(new URL(`../../dist/page/assets/${name}`, import.meta.url), 'utf8'),
      await readFile(`${source}${name}`, 'utf8'),
      name,
    )
})
