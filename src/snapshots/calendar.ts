// The calendar of usage: hours, days, weeks and months, in UTC.

/** A part of the calendar: one hour, day, week or month. */
export interface Interval {
  start: Date
  end: Date
}

export const UNITS = ['hour', 'day', 'week', 'month'] as const
export type Unit = (typeof UNITS)[number]

export interface UsageRange {
  from: Date
  to: Date
  by: Unit
}

/** The whole intervals that overlap the range, the first `max` of them. */
export function intervalsOf({ from, to, by }: UsageRange, max = Number.POSITIVE_INFINITY): Interval[] {
  const intervals: Interval[] = []
  for (let start = startOf(from, by); start < to && intervals.length < max; ) {
    const end = startOf(new Date(start.getTime() + LONGEST_INTERVAL_MS[by]), by)
    intervals.push({ start, end })
    start = end
  }
  return intervals
}

const HOUR_MS = 3_600_000
export const DAY_MS = 24 * HOUR_MS
/** The longest interval of each unit. Added to the start of any interval, it leads into the next one. */
const LONGEST_INTERVAL_MS: Record<Unit, number> = {
  hour: HOUR_MS,
  day: DAY_MS,
  week: 7 * DAY_MS,
  month: 31 * DAY_MS,
}
/** 1970 began on a Thursday. */
const MONDAY_MS = 4 * DAY_MS

/** The start of the interval that contains this moment. */
export function startOf(time: Date, by: Unit): Date {
  if (by === 'month') {
    const start = new Date(0) // not Date.UTC(), which takes the years 0 to 99 for 1900 to 1999
    start.setUTCFullYear(time.getUTCFullYear(), time.getUTCMonth())
    return start
  }
  const offset = by === 'week' ? MONDAY_MS : 0
  const length = LONGEST_INTERVAL_MS[by]
  return new Date(Math.floor((time.getTime() - offset) / length) * length + offset)
}
