// @ts-check
// Sends requests to the service, and describes every failure in a sentence. Keeps the token in memory, and, if the user
// asks for it, in the session of this tab.

const TIMEOUT_MS = 20_000

/** A failed request; the message is shown to the user. */
export class Failure extends Error {
  /** @param {string} message @param {{ status?: number, retryAfterS?: number, isChecked?: boolean }} [response] */
  constructor(message, { status = 0, retryAfterS = 0, isChecked = false } = {}) {
    super(message)
    /** Whether the service itself reported it in its status. */
    this.isChecked = isChecked
    /** 0 if there was no response. */
    this.status = status
    this.retryAfterS = retryAfterS
  }

  /** Whether another token is required. */
  get isRejected() {
    return this.status === 401 || this.status === 403
  }
}

const KEY = 'boundary-usage admin token'

let token = sessionStorage.getItem(KEY) ?? ''

/** @param {string} value @param {boolean} [isKept] whether a reload of the tab keeps it */
export function useToken(value, isKept = false) {
  token = value
  if (isKept) sessionStorage.setItem(KEY, value)
  else sessionStorage.removeItem(KEY)
}

export const hasToken = () => token !== ''

/**
 * @template T
 * @param {string} path relative, so that the page also works under a path of a proxy
 * @param {'GET' | 'POST'} [method]
 * @returns {Promise<T>}
 */
export async function request(path, method = 'GET') {
  // A header cannot contain other characters, and fetch would report a network error.
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
      throw new Failure(`The service did not respond within ${TIMEOUT_MS / 1000} seconds.`)
    throw new Failure(
      `The service cannot be reached at ${location.host}. It may be stopped or starting, or the network may be down.`,
    )
  }
  const json = parse(body)
  if (response.ok && json !== undefined) return json
  throw new Failure(describe(response.status, json), {
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

const UNKNOWN_TOKEN = 'Unknown token. Enter one of the service’s ADMIN_TOKENS.'
/** @type {Record<string, string>} */
const MESSAGES = {
  UNAUTHORIZED: UNKNOWN_TOKEN,
  FORBIDDEN:
    'This is an agent token, which may only send boundary logs. Enter one of the service’s ADMIN_TOKENS.',
  SNAPSHOT_IN_PROGRESS: 'Another snapshot is being taken. Try again in a second.',
  DATABASE_UNAVAILABLE: 'The service is running, but it cannot reach its database (503).',
  SHUTTING_DOWN: 'This replica is shutting down (503).',
  OVERLOADED: 'This replica is overloaded (503).',
}

/** @param {number} status @param {{ code?: string, message?: string } | undefined} json */
function describe(status, json) {
  const known = MESSAGES[json?.code ?? '']
  if (known !== undefined) return known
  if (json?.message !== undefined) return `The service responded with ${status}: ${json.message}.`
  return `The ${status} response does not come from the service. It may come from a proxy in front of it.`
}
