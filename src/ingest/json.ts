// Reads a batch in JSON straight from its bytes: BatchSchema says what a batch is, JsonScanner knows the syntax.

import { InvalidBody } from '../http/errors.js'
import type { Batch } from './batch.js'
import { isDateTimeAt } from './date-time.js'
import { JsonScanner, Names } from './json-scanner.js'
import { Tally } from './tally.js'
import { uuidAt } from './uuid.js'

// The members that the schema knows, of each kind of object, by their index among its names.
const BATCH = { workspaceId: 0, ownerId: 1, sessionId: 2, processName: 3, logs: 4 }
const LOG = { allowed: 0, time: 1, sequenceNumber: 2, httpRequest: 3 }
const REQUEST = { method: 0, url: 1, matchedRule: 2 }

interface Members {
  names: Names
  /** JSON pointer to the object. An asterisk stands for the log's index. */
  path: string
  /** How many objects and arrays a member is in. */
  depth: number
}

const BATCH_MEMBERS: Members = {
  names: new Names(['workspace_id', 'owner_id', 'session_id', 'confined_process_name', 'logs']),
  path: '',
  depth: 1,
}
const LOG_MEMBERS: Members = {
  names: new Names(['allowed', 'time', 'sequence_number', 'http_request']),
  path: '/logs/*',
  depth: 3,
}
const REQUEST_MEMBERS: Members = {
  names: new Names(['method', 'url', 'matched_rule']),
  path: '/logs/*/http_request',
  depth: 4,
}

/** Shared by all bodies, because each is read without a pause. */
const tally = new Tally()

/**
 * Reads a whole body in one pass and builds no string but the ids. Throws InvalidJson where it is not JSON, and
 * InvalidBody where it is not a batch.
 */
export function readJson(body: Buffer): Batch {
  return new JsonReader(body).batch()
}

/** Methods take the offset where something begins, and return the offset behind it. */
class JsonReader {
  readonly #json: JsonScanner
  readonly #ids: Pick<Batch, 'workspaceId' | 'ownerId' | 'sessionId'> = {
    workspaceId: undefined,
    ownerId: undefined,
    sessionId: undefined,
  }

  constructor(body: Buffer) {
    this.#json = new JsonScanner(body)
    tally.reset()
  }

  batch(): Batch {
    const json = this.#json
    let seen = 0
    let end = this.#open(BATCH_MEMBERS, json.start())
    for (let at = json.firstMember(end); at >= 0; at = json.next(end)) {
      const member = json.member(BATCH_MEMBERS.names, at)
      if (member < 0) end = json.skip(json.valueAt, BATCH_MEMBERS.depth)
      else {
        if (seen & (1 << member)) refuseSecond(BATCH_MEMBERS, member)
        seen |= 1 << member
        end = this.#batchMember(member, json.valueAt)
      }
    }
    json.finish(json.closeObject(end))
    require(BATCH_MEMBERS, seen, BATCH.logs)
    return tally.batch(this.#ids)
  }

  #batchMember(member: number, at: number): number {
    if (member === BATCH.logs) return this.#logs(at)
    const end = this.#string(BATCH_MEMBERS, member, at)
    if (member === BATCH.workspaceId) this.#ids.workspaceId = this.#id(member, at, end)
    else if (member === BATCH.ownerId) this.#ids.ownerId = this.#id(member, at, end)
    else if (member === BATCH.sessionId) this.#ids.sessionId = this.#id(member, at, end)
    return end
  }

  #logs(start: number): number {
    const json = this.#json
    let end = json.openArray(start)
    if (end < 0) this.#refuse(start, pointer(BATCH_MEMBERS, BATCH.logs), 'an array')
    for (let at = json.firstElement(end); at >= 0; at = json.next(end)) end = this.#log(at)
    return json.closeArray(end)
  }

  #log(start: number): number {
    const json = this.#json
    let isAllowed = false
    let sequenceNumber = Number.NaN
    let seen = 0
    let end = this.#open(LOG_MEMBERS, start)
    for (let at = json.firstMember(end); at >= 0; at = json.next(end)) {
      const member = json.member(LOG_MEMBERS.names, at)
      const { valueAt } = json
      if (member < 0) end = json.skip(valueAt, LOG_MEMBERS.depth)
      else {
        if (seen & (1 << member)) refuseSecond(LOG_MEMBERS, member)
        seen |= 1 << member
        if (member === LOG.allowed) {
          end = json.boolean(valueAt)
          if (end < 0) this.#refuse(valueAt, pointer(LOG_MEMBERS, member), 'a boolean')
          isAllowed = end === valueAt + 4
        } else if (member === LOG.time) end = this.#time(member, valueAt)
        else if (member === LOG.httpRequest) end = this.#request(valueAt)
        else {
          end = this.#number(member, valueAt)
          sequenceNumber = json.numberAt(valueAt, end)
          if (!Number.isInteger(sequenceNumber))
            this.#refuse(valueAt, pointer(LOG_MEMBERS, member), 'an integer')
        }
      }
    }
    require(LOG_MEMBERS, seen, LOG.allowed)
    tally.add((seen & (1 << LOG.httpRequest)) !== 0, isAllowed, sequenceNumber)
    return json.closeObject(end)
  }

  #request(start: number): number {
    const json = this.#json
    let seen = 0
    let end = this.#open(REQUEST_MEMBERS, start)
    for (let at = json.firstMember(end); at >= 0; at = json.next(end)) {
      const member = json.member(REQUEST_MEMBERS.names, at)
      if (member < 0) end = json.skip(json.valueAt, REQUEST_MEMBERS.depth)
      else {
        if (seen & (1 << member)) refuseSecond(REQUEST_MEMBERS, member)
        seen |= 1 << member
        end = this.#string(REQUEST_MEMBERS, member, json.valueAt)
      }
    }
    require(REQUEST_MEMBERS, seen, REQUEST.method)
    require(REQUEST_MEMBERS, seen, REQUEST.url)
    return json.closeObject(end)
  }

  /** Reads the brace that opens an object. */
  #open(members: Members, start: number): number {
    const end = this.#json.openObject(start)
    return end < 0 ? this.#refuse(start, resolve(members.path) || 'the body', 'an object') : end
  }

  #string(members: Members, member: number, at: number): number {
    const end = this.#json.string(at)
    return end < 0 ? this.#refuse(at, pointer(members, member), 'a string') : end
  }

  /** Returns the id in lower case. */
  #id(member: number, start: number, end: number): string {
    const { bytes, from, to } = this.#json.content(start, end)
    const id = uuidAt(bytes, from, to)
    if (id === undefined) throw new InvalidBody(`${pointer(BATCH_MEMBERS, member)} must be a UUID`)
    return id
  }

  #time(member: number, at: number): number {
    const end = this.#string(LOG_MEMBERS, member, at)
    const { bytes, from, to } = this.#json.content(at, end)
    if (!isDateTimeAt(bytes, from, to))
      throw new InvalidBody(`${pointer(LOG_MEMBERS, member)} must be an RFC 3339 date-time`)
    return end
  }

  #number(member: number, at: number): number {
    if (!this.#json.isNumber(at)) this.#refuse(at, pointer(LOG_MEMBERS, member), 'an integer')
    return this.#json.number(at)
  }

  /** Refuses a value of another type, or what is no value. */
  #refuse(start: number, what: string, type: string): never {
    this.#json.expectValue(start)
    throw new InvalidBody(`${what} must be ${type}`)
  }
}

function refuseSecond(members: Members, member: number): never {
  throw new InvalidBody(`${pointer(members, member)} occurs twice`)
}

function require(members: Members, seen: number, member: number): void {
  if ((seen & (1 << member)) === 0) throw new InvalidBody(`${pointer(members, member)} is required`)
}

/** To a member of the batch, or of the log that is being read. */
function pointer(members: Members, member: number): string {
  return `${resolve(members.path)}/${members.names.names[member]}`
}

function resolve(path: string): string {
  return path.replace('*', String(tally.length))
}
