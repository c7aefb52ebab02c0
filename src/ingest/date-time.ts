// RFC 3339 date-times, checked from their bytes: a batch has one for every log, and a string for each would cost more.

import { daysInMonth } from '../http/formats.js'

const SPACE = 0x20
const PLUS = 0x2b
const HYPHEN = 0x2d
const DOT = 0x2e
const DIGIT_0 = 0x30
const COLON = 0x3a
const LOWER_T = 0x74
const LOWER_Z = 0x7a
/** What turns a letter of ASCII into its lower case. */
const LOWER = 0x20

/** The length of 2026-01-31T12:30:00Z. */
const MIN_LENGTH = 20
/** Less than any number of two digits or of four that has it as a half. */
const NO_DIGITS = -10_000

/** Whether isDateTime() accepts the text whose bytes these are. */
export function isDateTimeAt(bytes: Uint8Array, start: number, end: number): boolean {
  return end - start >= MIN_LENGTH && isDateAt(bytes, start) && isTimeAt(bytes, start + 10, end)
}

function isDateAt(bytes: Uint8Array, at: number): boolean {
  const year = twoDigits(bytes, at) * 100 + twoDigits(bytes, at + 2)
  const month = twoDigits(bytes, at + 5)
  const day = twoDigits(bytes, at + 8)
  return (
    bytes[at + 4] === HYPHEN &&
    bytes[at + 7] === HYPHEN &&
    year >= 0 &&
    month >= 1 &&
    month <= 12 &&
    day >= 1 &&
    (day <= 28 || day <= daysInMonth(year, month))
  )
}

/** From the separator on. */
function isTimeAt(bytes: Uint8Array, start: number, end: number): boolean {
  const separator = bytes[start] ?? 0
  const second = twoDigits(bytes, start + 7)
  if (
    (separator !== SPACE && (separator | LOWER) !== LOWER_T) ||
    !isHourAndMinute(bytes, start + 1) ||
    bytes[start + 6] !== COLON ||
    second < 0 ||
    second > 60
  )
    return false

  let at = start + 9
  if (bytes[at] === DOT) {
    const first = ++at
    while (at < end && isDigit(bytes[at] ?? 0)) at++
    if (at === first || at === end) return false
  }
  const zone = bytes[at] ?? 0
  if ((zone | LOWER) === LOWER_Z) return at + 1 === end
  return (zone === PLUS || zone === HYPHEN) && at + 6 === end && isHourAndMinute(bytes, at + 1)
}

function isHourAndMinute(bytes: Uint8Array, at: number): boolean {
  const hour = twoDigits(bytes, at)
  const minute = twoDigits(bytes, at + 3)
  return hour >= 0 && hour <= 23 && bytes[at + 2] === COLON && minute >= 0 && minute <= 59
}

function twoDigits(bytes: Uint8Array, at: number): number {
  const tens = bytes[at] ?? 0
  const ones = bytes[at + 1] ?? 0
  return isDigit(tens) && isDigit(ones) ? (tens - DIGIT_0) * 10 + ones - DIGIT_0 : NO_DIGITS
}

function isDigit(byte: number): boolean {
  return byte >= DIGIT_0 && byte <= DIGIT_0 + 9
}
