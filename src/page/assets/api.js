// @ts-check
// Asks the service, and turns every way in which that can fail into a sentence. Holds the token, in memory alone.

const TIMEOUT_MS = 20_000

/** What went wrong, said for the person who looks at the page. */
export class Failure extends Error {
  /** @param {string} message @param {{ status?: number, retryAfterS?: number }} [answer] */
  constructor(message, { status = 0, retryAfterS = 0 } = {}) {
    super(message)
    /** 0 where there was no answer. */
    this.status = status
    this.retryAfterS = retryAfterS
  }

  /** Whether another token is what is needed. */
  get isRefused() {
    return this.status === 401 || this.status === 403
  }
}

let token = ''

/** @param {string} value */
export function useToken(value) {
  token = value
}

export const hasToken = () => token !== ''

/**
 * @template T
 * @param {string} path relative, so that the page also works below a path of a proxy
 * @param {'GET' | 'POST'} [method]
 * @returns {Promise<T>}
 */
export async function ask(path, method = 'GET') {
  // A header takes no other characters, and fetch would call that a network error.
  if (!/^[\x21-\x7e]*$/.test(token)) throw new Failure(UNKNOWN_TOKEN, { status: 401 })
  let response
  let body
  try {
    response = await fetch(path, {
      method,
      headers: token === '' ? {} : { authorization: `Bearer ${token}` },
      credentials: 'omit',
      cache: 'no-store',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
    body = await response.text()
  } catch (error) {
    if (error instanceof DOMException && error.name === 'TimeoutError')
      throw new Failure(`The service did not answer within ${TIMEOUT_MS / 1000} seconds.`)
    throw new Failure(
      `The service cannot be reached at ${location.host}: it is stopped or starting, or the network is down.`,
    )
  }
  const answer = parse(body)
  if (response.ok && answer !== undefined) return answer
  throw new Failure(sentence(response.status, answer), {
    status: response.status,
    retryAfterS: Number(response.headers.get('retry-after')) || 0,
  })
}

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const UNKNOWN_TOKEN = 'The service does not know this token: enter one of its ADMIN_TOKENS.'
/** @type {Record<string, string>} */
const SENTENCES = {
  UNAUTHORIZED: UNKNOWN_TOKEN,
  FORBIDDEN: 'This token is an agent’s, which may only send boundary logs: enter one of ADMIN_TOKENS.',
  SNAPSHOT_IN_PROGRESS: 'Another one is being taken at this moment: try again in a second.',
  DATABASE_UNAVAILABLE: 'The service is up, but it cannot reach its database (503).',
  SHUTTING_DOWN: 'This replica is shutting down (503).',
  OVERLOADED: 'This replica is overloaded (503).',
}

/** @param {number} status @param {{ code?: string, message?: string } | undefined} answer */
function sentence(status, answer) {
  const known = SENTENCES[answer?.code ?? '']
  if (known !== undefined) return known
  if (answer?.message !== undefined) return `The service answered ${status}: ${answer.message}.`
  return `What answered ${status} is not the service, but perhaps a proxy before it.`
}
