// @ts-check
// One chart: counts over contiguous intervals, drawn as steps. Its caption shows the counts of the interval under the
// cursor.

import { number, shortNumber } from './format.js'
import uPlot from './uplot.js'

/** @typedef {import('./history.js').Interval} Interval */
/** @typedef {import('./history.js').Counts} Counts */
/** @typedef {{ count: keyof Counts, label: string, color: string, dash?: number[] }} Line */
/** @typedef {{ from: number, to: number, intervals: Interval[], per: string, isUtc: boolean }} View */

const X_AXIS_PX = 22
const Y_AXIS_PX = 46
const DAY_S = 86_400
/** Grid line distances. Counts are integers, so there are no lines between them. */
const WHOLE = [1, 2, 5]
  .flatMap((n) => Array.from({ length: 13 }, (_, e) => n * 10 ** e))
  .sort((a, b) => a - b)

/** A point marks the end of an interval; its step reaches back to the start. */
const steps = uPlot.paths.stepped?.({ align: -1 })

const theme = matchMedia('(prefers-color-scheme: dark)')
/** @param {string} name */
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

/**
 * Adds a caption and a chart to a <figure>. The chart supports the keys of a slider, so that its values are accessible
 * without a pointer.
 * @param {HTMLElement} figure
 * @param {Line[]} lines
 */
export function createChart(figure, lines) {
  const caption = figure.appendChild(document.createElement('figcaption'))
  const values = lines.map((line) => legend(caption, line))
  const when = caption.appendChild(document.createElement('span'))
  when.className = 'when'
  const plot = figure.appendChild(document.createElement('div'))
  plot.className = 'plot'
  plot.tabIndex = 0
  plot.role = 'slider'
  plot.ariaLabel = lines.map(({ label }) => label).join(', ')
  const nothing = plot.appendChild(document.createElement('p'))
  nothing.className = 'nothing'

  /** @type {View} */
  let view = { from: 0, to: 1, intervals: [], per: '', isUtc: false }
  /** The index of the selected interval, or -1. */
  let current = -1

  /** @type {uPlot.Axis} */
  const axis = {
    font: '11px system-ui, sans-serif',
    stroke: () => color('--muted'),
    grid: { stroke: () => color('--grid'), width: 1 },
    ticks: { show: false },
  }
  const chart = new uPlot(
    {
      ...size(),
      padding: [8, 22, 0, 0],
      legend: { show: false },
      tzDate: (s) => (view.isUtc ? uPlot.tzDate(new Date(s * 1000), 'Etc/UTC') : new Date(s * 1000)),
      scales: {
        x: { range: () => [view.from / 1000, view.to / 1000] },
        y: { range: (_u, _min, max) => [0, Math.max(max * 1.08, 4)] },
      },
      axes: [
        {
          ...axis,
          size: X_AXIS_PX,
          space: 64,
          gap: 4,
          values: (_u, splits, _axis, _space, step) => splits.map((s) => tick(s, step, view.isUtc)),
        },
        {
          ...axis,
          size: Y_AXIS_PX,
          space: 28,
          gap: 4,
          incrs: WHOLE,
          values: (_u, splits) => splits.map(shortNumber),
        },
      ],
      series: [
        {},
        ...lines.map((line) => ({
          stroke: () => color(line.color),
          ...(lines.length === 1 && { fill: () => `${color(line.color)}22` }),
          width: 1.5,
          ...(line.dash && { dash: line.dash }),
          ...(steps && { paths: steps }),
          points: { show: false },
        })),
      ],
      cursor: {
        y: false,
        points: { show: false },
        drag: { x: false, y: false },
        sync: { key: 'time', scales: ['x', null] },
      },
      hooks: { setCursor: [readOut] },
    },
    [[], ...lines.map(() => [])],
    plot,
  )
  new ResizeObserver(() => chart.setSize(size())).observe(plot)
  theme.addEventListener('change', () => chart.redraw())
  plot.addEventListener('keydown', onKey)
  plot.addEventListener('blur', () => chart.setCursor({ left: -10, top: -10 }))

  function size() {
    return { width: plot.clientWidth, height: plot.clientHeight }
  }

  /** Shows the counts of the interval under the cursor, which another chart may have moved. @param {uPlot} u */
  function readOut(u) {
    const left = u.cursor.left ?? -1
    const at = left < 0 ? Number.NaN : u.posToVal(left, 'x') * 1000
    current = view.intervals.findIndex(({ start, end }) => start <= at && at < end)
    const interval = view.intervals[current]
    for (const [n, line] of lines.entries()) {
      const value = values[n]
      if (value) value.textContent = interval ? number(interval[line.count]) : ''
    }
    when.textContent = interval ? spanOf(interval, view) : view.per
    if (!interval) {
      u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false)
      return
    }
    const start = u.valToPos(Math.max(interval.start, view.from) / 1000, 'x')
    const width = Math.max(1, u.valToPos(interval.end / 1000, 'x') - start)
    u.setSelect({ left: start, top: 0, width, height: u.over.clientHeight }, false)
    plot.ariaValueNow = String(current)
    plot.ariaValueText = textOf(interval)
  }

  /** @param {Interval} interval */
  function textOf(interval) {
    const counts = lines.map(({ count, label }) => `${label} ${number(interval[count])}`)
    return `${spanOf(interval, view)}: ${counts.join(', ')}`
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    const last = view.intervals.length - 1
    const from = current === -1 ? last + 1 : current
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key]
    if (to === undefined || last < 0) return
    event.preventDefault()
    const interval = view.intervals[Math.min(Math.max(to, 0), last)]
    if (!interval) return
    const middle = (Math.max(interval.start, view.from) + interval.end) / 2000
    chart.setCursor({ left: chart.valToPos(middle, 'x'), top: 0 })
  }

  return {
    /** @param {View} next */
    show(next) {
      view = next
      const { intervals } = next
      const first = intervals[0]
      const xs = [...(first ? [first.start] : []), ...intervals.map(({ end }) => end)]
      const ys = lines.map(({ count }) => [
        ...(first ? [first[count]] : []),
        ...intervals.map((interval) => interval[count]),
      ])
      chart.setData([xs.map((ms) => ms / 1000), ...ys])
      nothing.textContent = intervals.length > 0 ? '' : 'No period ended in this range.'
      plot.ariaValueMin = '0'
      plot.ariaValueMax = String(Math.max(0, intervals.length - 1))
      const newest = intervals.at(-1)
      plot.ariaValueNow = plot.ariaValueMax
      plot.ariaValueText = newest ? textOf(newest) : nothing.textContent
      readOut(chart)
    },
  }
}

/** Adds a legend entry to the caption; returns the element for its value. @param {HTMLElement} caption @param {Line} line */
function legend(caption, { label, color: name, dash }) {
  const item = caption.appendChild(document.createElement('span'))
  item.className = 'legend'
  const swatch = item.appendChild(document.createElement('i'))
  swatch.className = dash ? 'swatch dashed' : 'swatch'
  swatch.style.setProperty('--color', `var(${name})`)
  item.append(label)
  const value = item.appendChild(document.createElement('b'))
  return value
}

/** @param {number} s @param {number} stepS @param {boolean} isUtc */
function tick(s, stepS, isUtc) {
  const date = new Date(s * 1000)
  const isMidnight = isUtc || (date.getHours() === 0 && date.getMinutes() === 0)
  return new Intl.DateTimeFormat(undefined, {
    ...(isMidnight || stepS >= DAY_S
      ? { month: 'short', day: 'numeric' }
      : { hour: '2-digit', minute: '2-digit' }),
    ...(isUtc && { timeZone: 'UTC' }),
  }).format(date)
}

/** @param {Interval} interval @param {View} view */
function spanOf({ start, end }, { isUtc, to }) {
  const sofar = end === to ? ', so far' : ''
  const day = /** @type {const} */ ({ weekday: 'short', month: 'short', day: 'numeric' })
  if (isUtc) return new Intl.DateTimeFormat(undefined, { ...day, timeZone: 'UTC' }).format(start) + sofar
  const format = new Intl.DateTimeFormat(undefined, { ...day, hour: '2-digit', minute: '2-digit' })
  return format.formatRange(start, end) + sofar
}
