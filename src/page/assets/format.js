// @ts-check
// Formats numbers, shares, changes, times and ages. Times are local, with UTC in the title.

const whole = new Intl.NumberFormat()
const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 })
const percent = new Intl.NumberFormat(undefined, { style: 'percent', maximumSignificantDigits: 2 })
const signed = new Intl.NumberFormat(undefined, {
  style: 'percent',
  maximumFractionDigits: 0,
  signDisplay: 'exceptZero',
})
const moment = new Intl.DateTimeFormat(undefined, {
  month: 'short',
  day: 'numeric',
  hour: 'numeric',
  minute: '2-digit',
  second: '2-digit',
})

/** @param {number} n */
export const number = (n) => whole.format(n)
/** @param {number} n */
export const shortNumber = (n) => compact.format(n)
/** A number and its noun, in the plural unless it is 1. @param {number} n @param {string} noun */
export const counted = (n, noun) => `${number(n)} ${noun}${n === 1 ? '' : 's'}`
/** @param {number | null} ratio from 0 to 1; null if there is none */
export const share = (ratio) => (ratio === null ? '–' : percent.format(ratio))

/** How much more or less `now` is than `before`, in percent; empty if there is nothing to compare with. */
/** @param {number} now @param {number} before */
export function change(now, before) {
  if (before <= 0) return ''
  return now / before >= 10 ? `×${whole.format(Math.round(now / before))}` : signed.format(now / before - 1)
}

/** A duration in its two largest units. @param {number} ms */
export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000))
  const units = /** @type {const} */ ([
    ['d', 86_400],
    ['h', 3_600],
    ['min', 60],
    ['s', 1],
  ])
  const first = units.findIndex(([, size]) => seconds >= size)
  if (first === -1) return '0 s'
  let rest = seconds
  const parts = units.slice(first, first + 2).map(([unit, size]) => {
    const n = Math.floor(rest / size)
    rest -= n * size
    return n === 0 ? '' : `${n} ${unit}`
  })
  return parts.filter(Boolean).join(' ')
}

/** Of the times that the page shows. */
export const TIME_ZONE = new Intl.DateTimeFormat().resolvedOptions().timeZone

let aheadMs = 0

/** Sets the service's current time, to which ages are relative. @param {string} iso */
export function setClock(iso) {
  aheadMs = Date.parse(iso) - Date.now()
}

export const now = () => Date.now() + aheadMs

/** A time relative to now, in its largest unit. @param {number} at */
export const age = (at) =>
  `${duration(now() - at)
    .split(' ')
    .slice(0, 2)
    .join(' ')} ago`

/** @param {string} iso */
export function time(iso) {
  return timeElement(iso, moment.format(new Date(iso)))
}

/** An element that shows the age of a time; updateAges() updates it. @param {string} iso */
export function ageOf(iso) {
  const element = timeElement(iso, age(Date.parse(iso)))
  element.className = 'age'
  return element
}

/** @param {string} iso @param {string} text */
function timeElement(iso, text) {
  const element = document.createElement('time')
  element.dateTime = iso
  element.title = `${iso.replace('T', ' ').replace('Z', '')} UTC`
  element.textContent = text
  return element
}

export function updateAges() {
  for (const element of document.querySelectorAll('time.age'))
    if (element instanceof HTMLTimeElement) element.textContent = age(Date.parse(element.dateTime))
}
