// Random texts of any Unicode characters. The unit 'binary' of fast-check gives the same and takes seconds to prepare.

import fc from 'fast-check'

const codePoint = fc.oneof(fc.nat(0xd7ff), fc.integer({ min: 0xe000, max: 0x10ffff })) // without surrogates

export const anyText = (maxLength: number) =>
  fc.string({ unit: codePoint.map((code) => String.fromCodePoint(code)), maxLength })
