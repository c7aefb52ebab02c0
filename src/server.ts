// The entry: runs the command that the arguments name, or starts a replica: settings, app, listen; and closes it
// with grace.

import closeWithGrace from 'close-with-grace'
import type { FastifyInstance } from 'fastify'
import { runCommand } from './cli.js'
import { type Config, ConfigError, isOpen, loadConfig, urlOf } from './config.js'
import { InUseError } from './directory-lock.js'

try {
  const exitCode = await runCommand(process.argv.slice(2))
  if (exitCode === undefined) await start(loadConfig())
  else process.exitCode = exitCode
} catch (error) {
  if (!(error instanceof ConfigError || error instanceof InUseError)) throw error
  process.stderr.write(`boundary-usage: ${error.message}\n`)
  process.exit(1)
}

async function start(config: Config): Promise<void> {
  const { buildApp } = await import('./app.js') // commands do without it, and so start faster
  const app = await buildApp(config)
  let hasFailed = false
  const { close } = closeWithGrace(
    { delay: config.SHUTDOWN_TIMEOUT_MS, logger: app.log },
    async ({ err, signal }) => {
      if (err) app.log.fatal({ err }, 'ending after an error that nothing caught')
      else app.log.info({ signal }, 'shutting down')
      await app.close()
      if (hasFailed || !app.counting.isSettled) process.exit(1)
      app.log.info('shut down')
    },
  )

  try {
    await app.listen({ host: config.HOST, port: config.PORT })
    await app.database.prepared
  } catch (err) {
    if (app.shutdown.signal.aborted) return // told to end before it had started
    app.log.fatal({ err }, 'cannot start')
    hasFailed = true
    await close()
    return
  }
  greet(app, config)
}

/** Tells a person at a terminal what to do next. */
function greet(app: FastifyInstance, config: Config): void {
  if (!process.stdout.isTTY) return // where a log is read by programs
  const address = app.server.address()
  const port = typeof address === 'object' && address ? address.port : config.PORT
  const url = urlOf(config.HOST, port)
  const token = (name: string) => (isOpen(config) ? '' : ` -H "Authorization: Bearer $${name}"`)
  const batch = JSON.stringify({
    workspace_id: '11111111-1111-4111-8111-111111111111',
    owner_id: '22222222-2222-4222-8222-222222222222',
    logs: [
      { allowed: true, http_request: { method: 'GET', url: 'https://example.com/' } },
      { allowed: false, http_request: { method: 'GET', url: 'https://example.org/' } },
    ],
  })
  process.stdout.write(
    [
      `\nboundary-usage is ready at ${url}. Try:\n`,
      `  curl${token('AGENT_TOKEN')} -H 'Content-Type: application/json' -d '${batch}' ${url}/boundary/logs`,
      `  curl${token('ADMIN_TOKEN')} ${url}/telemetry/snapshot`,
      `  curl${token('ADMIN_TOKEN')} -X POST ${url}/telemetry/snapshot`,
      `\nOr look at ${url}. The API is at ${url}/docs, the metrics are at ${url}/metrics.\n\n`,
    ].join('\n'),
  )
}
