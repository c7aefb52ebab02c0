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

/** Converts an RFC 3339 date-time. A leap second becomes the second before it. */
export function toDate(text: string): Date {
  return new Date(
    text
      .toUpperCase()
      .replace(' ', 'T')
      .replace(/(T\d\d:\d\d):60/, '$1:59'),
  )
}
