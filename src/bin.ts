#!/usr/bin/env node
// The command of the package: `boundary-usage` starts the service or runs its commands, `boundary-usage forward` is the
// forwarder. Each is loaded alone: the forwarder has to be small.

const [command, ...args] = process.argv.slice(2)
if (command === 'forward') {
  const { forward } = await import('./forwarder/main.js')
  process.exit(await forward(args))
} else await import('./server.js')

export {}
