// @ts-check
// Formats numbers, times and ages. Times are local, with UTC in the title.

const whole = new Intl.NumberFormat()
const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 })
const percent = new Intl.NumberFormat(undefined, { style: 'percent', maximumSignificantDigits: 2 })
const moment = new Intl.DateTimeFormat(undefined, {
  month: 'short',
  day: 'numeric',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
})

/** @param {number} n */
export const number = (n) => whole.format(n)
/** @param {number} n */
export const shortNumber = (n) => compact.format(n)
/** A number and its noun, in the plural unless it is 1. @param {number} n @param {string} noun */
export const counted = (n, noun) => `${number(n)} ${noun}${n === 1 ? '' : 's'}`
/** @param {number} part @param {number} rest */
export const share = (part, rest) => (part === 0 ? '' : percent.format(part / (part + rest)))

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
