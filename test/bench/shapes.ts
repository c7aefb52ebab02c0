// npm run bench:shapes: what a kilobyte of JSON costs the reader in the worst shapes, as ratios to a typical batch in
// the same run, and whether a burst of malformed bodies leaves it slower.

import { readJson } from '../../src/ingest/json.js'
import { randomBatch, randomBatches } from './bodies.js'
import { describeMachine, median, row } from './harness.js'

const KIB = 1024
const SIZE = 256 * KIB
const ROUNDS = 21
const ROUND_BYTES = 4 * SIZE
const GOAL = 4

const typical = randomBatches(20, 100).map((batch) => Buffer.from(JSON.stringify(batch)))
const sessionless = { workspace_id: randomBatch(0).workspace_id, owner_id: randomBatch(0).owner_id }
const request = { method: '', url: '' }

/** Valid JSON, so that all of it is read. A shape is repeated within an unknown member, or as logs. */
const shapes: Record<string, Buffer[]> = {
  'a typical batch': typical,
  'nested arrays': later(`${'['.repeat(60)}${']'.repeat(60)}`),
  'nested objects': later(`${'{"":'.repeat(60)}0${'}'.repeat(60)}`),
  'empty arrays': later('[]'),
  'empty objects': later('{}'),
  'empty strings': later('""'),
  'one-digit numbers': later('0'),
  'long numbers': later('1'.repeat(10_000)),
  'fractions and exponents': later('-0.1e-1'),
  literals: later('null'),
  'white space': later(' '.repeat(1_000)),
  'white space around each token': later(' [ 0 , { "" : 0 } ] '),
  'short escapes': later(`"${'\\n'.repeat(1_000)}"`),
  'Unicode escapes': later(`"${'\\u0061'.repeat(1_000)}"`),
  'an escape in every word': later(`"${'abc\\n'.repeat(1_000)}"`),
  'two-byte characters': later(`"${'é'.repeat(1_000)}"`),
  'ASCII and others in turn': later(`"${'aé'.repeat(1_000)}"`),
  'members without a name': later('{"":0,"":0}'),
  'unknown members of a log': log('"a":0,'),
  'unknown members like known ones': log('"allow":0,'),
  'unknown members with escapes': log('"\\u0061":0,'),
  'escapes, as long as known names': log('"\\u0061rl":0,'),
  'long names with escapes': log(`"${'\\u0061'.repeat(40)}":0,`),
  'very long names': log(`"${'a'.repeat(10_000)}":0,`),
  'minimal logs': [
    Buffer.from(JSON.stringify({ ...sessionless, logs: Array(1_000).fill({ allowed: true }) })),
  ],
  'numbers in reverse order': numbered((n) => String(1_000 - n)),
  'numbers in any order': numbered((n) => String((n * 7_919) % 1_009)),
  'far numbers': numbered((n) => String((n * 7_919_000_000_019) % 9_007_199_254_740_881)),
  'numbers as exponents': numbered((n) => `${n + 1}000e-3`),
  'numbers of a thousand digits': numbered((n) => `${n}.${'0'.repeat(1_000)}`, 200),
  'escaped times': [
    Buffer.from(
      JSON.stringify({
        ...sessionless,
        logs: Array(1_000).fill({ allowed: true, time: 'T', http_request: request }),
      }).replaceAll('"T"', `"${escaped('2026-01-31T12:30:00Z')}"`),
    ),
  ],
}

console.log(
  `${describeMachine()}; median of ${ROUNDS} rounds of ${ROUND_BYTES / KIB} KiB, interleaved, by CPU time`,
)
const measured = measure(shapes)
const base = measured['a typical batch'] ?? Number.NaN
row('', 'us per KiB', 'to typical')
for (const [name, micros] of Object.entries(measured).sort(([, a], [, b]) => a - b))
  row(name.padEnd(32), micros.toFixed(2), (micros / base).toFixed(2))
const worst = Math.max(...Object.values(measured)) / base
console.log(`goal, at most ${GOAL} times a typical batch: ${worst <= GOAL ? 'met' : 'missed'}`)
if (worst > GOAL) process.exitCode = 1

const before = measure({ typical }).typical ?? Number.NaN
malformedBurst()
const after = measure({ typical }).typical ?? Number.NaN
console.log(`a typical batch after 200,000 malformed bodies: ${(after / before).toFixed(2)} of before`)

function later(value: string): Buffer[] {
  const values = Array(Math.ceil(SIZE / (value.length + 1))).fill(value.trim() === '' ? `${value}0` : value)
  return [Buffer.from(`{"later":[${values.join(',')}],"logs":[]}`)]
}

function log(member: string): Buffer[] {
  return [Buffer.from(`{"logs":[{${member.repeat(Math.ceil(SIZE / member.length))}"allowed":true}]}`)]
}

function numbered(numberOf: (n: number) => string, count = 1_000): Buffer[] {
  const logs = Array.from({ length: count }, (_, n) => `{"allowed":true,"sequence_number":${numberOf(n)}}`)
  return [Buffer.from(`{"session_id":"${randomBatch(0).session_id}","logs":[${logs.join(',')}]}`)]
}

function escaped(text: string): string {
  return [...text].map((character) => `\\u00${character.charCodeAt(0).toString(16)}`).join('')
}

/** Of each, the median over the rounds in microseconds of CPU time per KiB. */
function measure(all: Record<string, Buffer[]>): Record<string, number> {
  const series = Object.fromEntries(Object.keys(all).map((name) => [name, [] as number[]]))
  for (
    let round = -3;
    round < ROUNDS;
    round++ // the first three only warm up
  )
    for (const [name, bodies] of Object.entries(all)) {
      const micros = microsPerKib(bodies)
      if (round >= 0) series[name]?.push(micros)
    }
  return Object.fromEntries(Object.entries(series).map(([name, values]) => [name, median(values)]))
}

function microsPerKib(bodies: Buffer[]): number {
  let bytes = 0
  const start = process.cpuUsage()
  while (bytes < ROUND_BYTES)
    for (const body of bodies) {
      readJson(body)
      bytes += body.length
    }
  return process.cpuUsage(start).user / (bytes / KIB)
}

/** Cut anywhere, or with one byte that is another. */
function malformedBurst(): void {
  const body = Buffer.from(JSON.stringify(randomBatch(3)))
  for (let n = 0; n < 200_000; n++) {
    const bytes = Buffer.from(n % 2 ? body : body.subarray(0, (n * 7) % body.length))
    if (n % 2) bytes[(n * 7_919) % body.length] = n & 0xff
    try {
      readJson(bytes)
    } catch {
      // as intended
    }
  }
}
