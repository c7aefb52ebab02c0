// The entry point: runs a command, or starts a replica and shuts it down gracefully.

import closeWithGrace from 'close-with-grace'
import { runCommand } from './cli.js'
import { type Config, ConfigError, loadConfig } from './config.js'
import { InUseError } from './directory-lock.js'
import { greet } from './greeting.js'

try {
  const status = await runCommand(process.argv.slice(2))
  if (status === undefined) await start(loadConfig())
  else process.exitCode = status
} catch (error) {
  if (!(error instanceof ConfigError || error instanceof InUseError)) throw error
  process.stderr.write(`boundary-usage: ${error.message}\n`)
  process.exit(1)
}

async function start(config: Config): Promise<void> {
  const { buildApp } = await import('./app.js') // not at the top: commands do not need it, and start faster without
  const app = await buildApp(config)
  let hasFailed = false
  const { close } = closeWithGrace(
    { delay: config.SHUTDOWN_TIMEOUT_MS, logger: app.log },
    async ({ err, signal }) => {
      if (err) app.log.fatal({ err }, 'exiting after an uncaught error')
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
    if (app.shutdown.signal.aborted) return // a signal ended the start
    app.log.fatal({ err }, 'cannot start')
    hasFailed = true
    await close()
    return
  }
  greet(app.server.address(), config)
}
