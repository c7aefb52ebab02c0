// Date-times in bytes are what isDateTime() takes as text.

import fc from 'fast-check'
import t from 'tap'
import { isDateTime } from '../../src/http/formats.js'
import { isDateTimeAt } from '../../src/ingest/date-time.js'

/** Mostly the first of them. */
const part = (usual: string[], unusual: string[]) =>
  fc.oneof(
    { weight: 9, arbitrary: fc.constantFrom(...usual) },
    { weight: 1, arbitrary: fc.constantFrom(...unusual) },
  )
/** Mostly a time, some with a part out of its range, and some with one character other than it was. */
const texts = fc
  .record({
    parts: fc.tuple(
      part(['2026', '2024', '2000', '1900', '0000'], ['99999', '-001', '20']),
      part(['-'], ['', '/']),
      part(['01', '02', '04', '12'], ['00', '13', '2', '99']),
      part(['-'], ['', '+']),
      part(['01', '28', '29', '30', '31'], ['00', '32', '3']),
      part(['T', 't', ' '], ['', '_', '\t']),
      part(['00', '09', '23'], ['24', '1', '99']),
      part([':'], ['', '.']),
      part(['00', '59'], ['60', '7']),
      part([':'], ['']),
      part(['00', '59', '60'], ['61', '5']),
      part(['', '.0', '.123456789'], ['.', '.1x', ',5']),
      part(['Z', 'z', '+00:00', '-23:59'], ['+24:00', '+00:60', '+0000', '', 'ZZ', 'Z ', 'z\u0301']),
    ),
    change: fc.option(
      fc.record({ at: fc.nat(), put: fc.constantFrom('', ' ', '0', '9', 'Z', '.', ':', '\0', 'é') }),
    ),
  })
  .map(({ parts, change }) => {
    const text = parts.join('')
    if (change === null) return text
    const at = change.at % (text.length + 1)
    return text.slice(0, at) + change.put + text.slice(at + 1)
  })

t.test('bytes are a date-time if their text is', async (t) => {
  const seen = { true: 0, false: 0 }
  fc.assert(
    fc.property(texts, fc.nat({ max: 3 }), (text, offset) => {
      const bytes = Buffer.concat([Buffer.alloc(offset, '"'), Buffer.from(text), Buffer.from('"')])
      const expected = isDateTime(text)
      seen[`${expected}`]++
      return isDateTimeAt(bytes, offset, bytes.length - 1) === expected
    }),
    { numRuns: 50_000 },
  )
  t.ok(seen.true > 1_000 && seen.false > 1_000, JSON.stringify(seen))
})
