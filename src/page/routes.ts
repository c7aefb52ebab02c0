// Serves the status page at /, and the manual that it links to: exactly the files listed here, read once at startup.

import { hash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FastifyPluginAsync } from 'fastify'
import { toHtml } from './manual.js'

const OWN = fileURLToPath(new URL('assets/', import.meta.url))
const MANUAL = fileURLToPath(new URL('../../docs/operating.md', import.meta.url))
const UPLOT = join(createRequire(import.meta.url).resolve('uplot/package.json'), '../dist')

const FILES: Record<string, string> = {
  '/': join(OWN, 'index.html'),
  '/docs/operating.md': MANUAL, // the path in the repository, so that a link to a runbook works here and there
  ...Object.fromEntries(
    ['page.css', 'icon.svg', 'page.js', 'view.js', 'charts.js', 'history.js', 'format.js', 'api.js'].map(
      (name) => [`/page/${name}`, join(OWN, name)],
    ),
  ),
  '/page/uplot.js': join(UPLOT, 'uPlot.esm.js'),
  '/page/uplot.css': join(UPLOT, 'uPlot.min.css'),
}

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.md': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
}

/** Allows only resources of this server, no scripts or markup built from strings, and no framing. */
const HEADERS = {
  'content-security-policy': [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
  ].join('; '),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache', // the browser revalidates each time, by the ETag
}

export const page: FastifyPluginAsync = async (app) => {
  for (const [path, file] of Object.entries(FILES)) {
    const content = file === MANUAL ? toHtml(await readFile(file, 'utf8')) : await readFile(file)
    const headers = {
      ...HEADERS,
      'content-type': TYPES[extname(file)],
      etag: `"${hash('sha256', content, 'base64url')}"`,
    }
    app.get(path, { schema: { hide: true } }, async (request, reply) => {
      reply.headers(headers)
      if (request.headers['if-none-match']?.includes(headers.etag)) return reply.code(304).send()
      return reply.send(content)
    })
  }
}
