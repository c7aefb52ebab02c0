// The entry point: runs the command that the arguments name, or starts a replica and ends it in order.

import { runCommand } from './cli.js'
import { type Config, loadConfig, resemblingNames } from './config.js'
import { greet } from './greeting.js'
import { endInOrder } from './signals.js'
import { StartError } from './start-error.js'

/** How long the last lines of the log wait for a reader that has stopped. */
const LOG_DRAIN_MS = 1_000

try {
  const status = await runCommand(process.argv.slice(2))
  if (status === undefined) await start(loadConfig())
  else process.exitCode = status
} catch (error) {
  if (!(error instanceof StartError)) throw error
  for (const line of error.message.split('\n')) process.stderr.write(`boundary-usage: ${line}\n`)
  process.exit(1)
}

async function start(config: Config): Promise<void> {
  // Commands do without these modules, and so start faster.
  const [{ buildApp }, { listen, checkAddresses }, { stdoutLog }] = await Promise.all([
    import('./app.js'),
    import('./http/listen.js'),
    import('./log.js'),
  ])
  await checkAddresses(config.HOST, config.PORT)
  const output = await stdoutLog(process.stdout.isTTY)
  const app = await buildApp(config, { output })

  for (const { name, setting } of resemblingNames(process.env))
    app.log.warn(`the variable ${name} is not a setting: did you mean ${setting}?`)

  const end = endInOrder({
    log: app.log,
    timeoutMs: config.SHUTDOWN_DELAY_MS + config.SHUTDOWN_TIMEOUT_MS,
    async close(reason) {
      if ('err' in reason) app.log.fatal({ err: reason.err }, 'exiting after an uncaught error')
      else if ('signal' in reason) {
        app.log.info({ signal: reason.signal }, 'shutting down')
        await app.shutdown.delay()
      }
      await app.close()
      if (!app.counting.isSettled || !('signal' in reason)) return 1
      app.log.info('shut down')
      return 0
    },
    async exit(code) {
      await output.drain(LOG_DRAIN_MS)
      process.exit(code)
    },
  })

  try {
    const port = await listen(app, config.HOST, config.PORT)
    await app.database.prepared
    if (process.stdout.isTTY) output.write(greet(config, port))
  } catch (err) {
    if (app.shutdown.signal.aborted) return // the shutdown began before the start was complete
    if (err instanceof StartError) app.log.fatal(`cannot start: ${err.message}`)
    else app.log.fatal({ err }, 'cannot start')
    await end({ failedStart: true })
  }
}
