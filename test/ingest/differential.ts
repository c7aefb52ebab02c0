// Compares the JSON reader with JSON.parse and Ajv over the schema, for any number of generated bodies.

import { deepStrictEqual } from 'node:assert/strict'
import { Ajv } from 'ajv'
import { isMap, parseDocument, visit } from 'yaml'
import { addFormats } from '../../src/http/formats.js'
import type { Batch } from '../../src/ingest/batch.js'
import { readJson } from '../../src/ingest/json.js'
import { BatchSchema } from '../../src/ingest/schemas.js'
import { bodyOf } from './json-bodies.js'
import { summarize } from './reference.js'

/** What a reader makes of a body: the batch, or the code and message of its refusal. */
export type Outcome = { batch: Batch } | { code: string; message: string }

export function read(body: Uint8Array): Outcome {
  try {
    return { batch: readJson(Buffer.from(body)) }
  } catch (error) {
    const { code, message } = error as { code?: string; message: string }
    if (code !== 'INVALID_JSON' && code !== 'INVALID_BODY') throw error
    return { code, message }
  }
}

interface JsonBatch {
  workspace_id?: string
  owner_id?: string
  session_id?: string
  logs: { allowed: boolean; sequence_number?: number; http_request?: object }[]
}

const KNOWN = new Set([
  ...['workspace_id', 'owner_id', 'session_id', 'confined_process_name', 'logs'],
  ...['allowed', 'time', 'sequence_number', 'http_request', 'method', 'url', 'matched_rule'],
])
const validate = addFormats(new Ajv()).compile<JsonBatch>(BatchSchema)
const decoder = new TextDecoder('utf-8', { fatal: true })

/** The same by JSON.parse and Ajv; `value` if the body is JSON at all. */
function readByReference(body: Uint8Array): Outcome & { value?: unknown } {
  let value: unknown
  try {
    value = JSON.parse(decoder.decode(body))
  } catch (error) {
    return { code: 'INVALID_JSON', message: String(error) }
  }
  if (!validate(value)) return { code: 'INVALID_BODY', message: JSON.stringify(validate.errors), value }
  const { workspace_id, owner_id, session_id, logs } = value
  const batch = summarize(
    {
      workspaceId: workspace_id?.toLowerCase(),
      ownerId: owner_id?.toLowerCase(),
      sessionId: session_id?.toLowerCase(),
    },
    logs,
  )
  return batch ? { batch, value } : { code: 'INVALID_BODY', message: 'sequence numbers', value }
}

/**
 * The two intended differences: the reader refuses what nests deeper than 64, and a second member of a known name. Of
 * two such members JSON.parse takes the last, and the reader may find a fault in the first.
 */
function isIntended({ message }: { message: string }, body: Uint8Array, value: unknown): boolean {
  return message.includes('nesting deeper than 64') ? depthOf(value) > 64 : hasTwins(body)
}

function depthOf(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0
  return 1 + Math.max(0, ...Object.values(value).map(depthOf))
}

/**
 * Whether an object of this JSON text has two members of one known name, which JSON.parse does not tell. YAML contains
 * JSON, but for a carriage return between two tokens.
 */
function hasTwins(body: Uint8Array): boolean {
  const text = decoder.decode(body).replace(/[\t\r\n]/g, ' ')
  let found = false
  visit(parseDocument(text, { uniqueKeys: false, schema: 'json' }), {
    Map(_key, map) {
      if (!isMap(map)) return
      const names = map.items.map(({ key }) => String(key)).filter((name) => KNOWN.has(name))
      if (new Set(names).size < names.length) found = true
    },
  })
  return found
}

/** Throws if the reader and the reference differ, and not as intended; returns what both make of the body. */
export function compare(body: Uint8Array): 'accepted' | 'refused' | 'intended' {
  const found = read(body)
  const { value, ...expected } = readByReference(body)
  if ('batch' in found && 'batch' in expected) {
    deepStrictEqual(found, expected)
    return 'accepted'
  }
  if ('batch' in found) throw new Error(`accepted, and not by the reference: ${expected}`)
  if ('batch' in expected || (found.code === 'INVALID_JSON' && value !== undefined)) {
    if (isIntended(found, body, value)) return 'intended'
    throw new Error(`refused, and not by the reference: ${found.message}`)
  }
  return 'refused'
}

/** Compares so many bodies from `seed` on; returns how they came out. Throws at the first that differs. */
export function compareMany(count: number, seed: number): Record<ReturnType<typeof compare>, number> {
  const seen = { accepted: 0, refused: 0, intended: 0 }
  for (let n = seed; n < seed + count; n++) {
    const body = bodyOf(n)
    try {
      seen[compare(body)]++
    } catch (error) {
      throw new Error(`body ${n}, ${JSON.stringify(body.toString('latin1'))}`, { cause: error })
    }
  }
  return seen
}
