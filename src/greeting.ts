// What a person who starts the service at a terminal sees first.

import { type Config, isOpen, urlOf } from './config.js'

/** Commands to try, for a service that is ready on `port`. */
export function greet(config: Config, port: number): string {
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
  return [
    `\nboundary-usage is ready at ${url}. Try:\n`,
    `  curl${token('AGENT_TOKEN')} -H 'Content-Type: application/json' -d '${batch}' ${url}/boundary/logs`,
    `  curl${token('ADMIN_TOKEN')} ${url}/telemetry/snapshot`,
    `  curl${token('ADMIN_TOKEN')} -X POST ${url}/telemetry/snapshot`,
    `\nThe status page is at ${url}, the API reference at ${url}/docs, the metrics at ${url}/metrics.\n\n`,
  ].join('\n')
}
