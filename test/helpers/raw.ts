// Sends bytes as they are, for what no HTTP client would send.

import { once } from 'node:events'
import { connect } from 'node:net'

/**
 * Sends `bytes` to the server at `url` and resolves with all it answers until it closes the connection. With
 * `hangUp` the client ends its side at once, without waiting.
 */
export async function exchange(
  url: string,
  bytes: string | Buffer,
  options: { hangUp?: boolean } = {},
): Promise<string> {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  await once(socket, 'connect')
  let answer = ''
  socket.setEncoding('utf8').on('data', (chunk) => {
    answer += chunk
  })
  socket.on('error', () => {}) // a reset is an answer too; close follows
  const closed = once(socket, 'close')
  socket.write(bytes)
  if (options.hangUp) socket.destroySoon()
  await closed
  return answer
}

/** The head of a POST of `length` bytes to /boundary/logs. */
export function head(length: number, headers: Record<string, string> = {}): string {
  const all = {
    host: 'localhost',
    'content-type': 'application/json',
    'content-length': String(length),
    ...headers,
  }
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`)
  return `POST /boundary/logs HTTP/1.1\r\n${lines.join('')}\r\n`
}
