// The string formats of the API: UUIDs and RFC 3339 times.

import type { Ajv } from 'ajv'

/** A UUID of any version, hyphenated, in upper or lower case. */
export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

const DATE_TIME =
  /^(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt ](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/

/** Adds these formats to `ajv`, replacing the less strict ones that Fastify adds under the same names. */
export function addFormats(ajv: Ajv): Ajv {
  return ajv.addFormat('uuid', UUID).addFormat('date-time', isDateTime)
}

/** Whether `text` is an RFC 3339 date-time. A leap second is accepted in any minute. */
export function isDateTime(text: string): boolean {
  const match = DATE_TIME.exec(text)
  return match !== null && Number(match[3]) <= daysInMonth(Number(match[1]), Number(match[2]))
}

/** `month` is from 1 to 12. */
export function daysInMonth(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28
  return month === 4 || month === 6 || month === 9 || month === 11 ? 30 : 31
}

const DAY_MS = 86_400_000
const LEAP_SECOND = /(T\d\d:\d\d):60/

/** The earliest and latest time of the API, in milliseconds since 1970: RFC 3339 has four digits, PostgreSQL no year 0. */
export const EARLIEST_MS = Date.parse('0001-01-01T00:00:00.000Z')
const LATEST_MS = Date.parse('9999-12-31T23:59:59.999Z')

/** Whether the API can represent this time. */
export function isRepresentable(time: Date): boolean {
  return time.getTime() >= EARLIEST_MS && time.getTime() <= LATEST_MS
}

/**
 * Converts a time that a client names: an RFC 3339 date-time, in the years 0001 to 9999 of UTC. Undefined if it is not
 * one. A leap second, which only occurs at 23:59:60 UTC, becomes the first moment of the next day: so times keep their
 * order.
 */
export function parseTime(text: string): Date | undefined {
  if (!isDateTime(text)) return undefined
  const upper = text.toUpperCase().replace(' ', 'T')
  const time = new Date(upper.replace(LEAP_SECOND, '$1:59'))
  if (LEAP_SECOND.test(upper)) {
    time.setUTCMilliseconds(1000)
    if (time.getTime() % DAY_MS !== 0) return undefined
  }
  return isRepresentable(time) ? time : undefined
}
