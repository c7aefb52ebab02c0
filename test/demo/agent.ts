// npm run agent: sends batches to a service by hand, as a boundary would.

import { randomUUID } from 'node:crypto'
import { parseArgs } from 'node:util'
import { SendError, sendBatch } from './client.js'
import { count, countRefusal, number, refusals, requests, showProgress } from './progress.js'
import { makeLogs } from './traffic.js'

const USAGE = `usage: npm run agent -- [options]; a token is read from AGENT_TOKEN
  --url http://127.0.0.1:3000   the service
  --logs 10                     logs in a batch, 1 to 1000
  --batches 1                   batches, one after the other
  --workspace, --owner UUID     whose they are; by default somebody new
  --deny 0.1                    share of the logs that are denials, 0 to 1
  --help                        print this and exit
`

const options = readOptions()
const ended = new AbortController()
process.on('SIGINT', () => ended.abort())

const told = { batches: 0, allowed: 0, denied: 0, refused: new Map<string, number>() }
const progress = showProgress(
  () =>
    `${number(told.batches)} of ${count(options.batches, 'batch', 'batches')}: ${requests(told)}` +
    refusals(told.refused),
)
const failure = await send().catch((error: unknown) => error)
progress.stop()
if (failure instanceof SendError) {
  process.stderr.write(`agent: ${failure.message}\n`)
  process.exitCode = 1
} else if (failure) throw failure

async function send(): Promise<void> {
  const { url, logs, batches, deny, ids } = options
  const token = process.env.AGENT_TOKEN
  const target = {
    url,
    onRefused: (reason: string) => countRefusal(told.refused, reason),
    ...(token && { headers: { authorization: `Bearer ${token}` } }),
  }
  const session_id = randomUUID()
  for (let n = 0; n < batches; n++) {
    const batch = { ...ids, session_id, confined_process_name: 'agent', logs: makeLogs(logs, deny, n * logs) }
    const counts = await sendBatch(target, batch, ended.signal)
    if (!counts) return
    told.batches++
    told.allowed += counts.allowed
    told.denied += counts.denied
  }
}

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        url: { type: 'string', default: 'http://127.0.0.1:3000' },
        logs: { type: 'string', default: '10' },
        batches: { type: 'string', default: '1' },
        workspace: { type: 'string', default: randomUUID() },
        owner: { type: 'string', default: randomUUID() },
        deny: { type: 'string', default: '0.1' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    })
    if (values.help) {
      process.stdout.write(USAGE)
      process.exit(0)
    }
    const [logs, batches, deny] = [Number(values.logs), Number(values.batches), Number(values.deny)]
    if (!URL.canParse(values.url)) throw new Error('--url takes http://host:port')
    if (!Number.isInteger(logs) || logs < 1 || logs > 1000) throw new Error('--logs takes 1 to 1000')
    if (!Number.isInteger(batches) || batches < 1) throw new Error('--batches takes a whole number')
    if (!(deny >= 0 && deny <= 1)) throw new Error('--deny takes 0 to 1')
    const ids = { workspace_id: values.workspace, owner_id: values.owner }
    return { url: values.url.replace(/\/+$/, ''), logs, batches, deny, ids }
  } catch (error) {
    process.stderr.write(`agent: ${(error as Error).message}\n${USAGE}`)
    process.exit(2)
  }
}
