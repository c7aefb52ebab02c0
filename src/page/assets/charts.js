// @ts-check
// One chart: figures of intervals, drawn as steps. Its caption shows the figures of the interval under the cursor.

import uPlot from './uplot.js'

/** @typedef {import('./history.js').Interval} Interval */
/**
 * @typedef {{ label: string, color: string, width?: number, figure: (interval: Interval) => number | null,
 *   text: (interval: Interval) => string }} Line
 */
/** @typedef {{ from: number, intervals: Interval[], per: string, isUtc: boolean }} View times in ms since 1970 */

const X_AXIS_PX = 22
const Y_AXIS_PX = 46
const MINUTE_S = 60
const DAY_S = 86_400
/** The shortest time that the axis shows. */
const SHORTEST_MS = 10_000
/** Up to so many intervals are marked by points, because the step of a short one is hardly visible. */
const FEW = 14
/** An interval in progress. */
const DASHES = [3, 3]
/** A line wider than this is translucent, so that one in its middle is visible. */
const WIDE_PX = 3
/** The points of an interval: its start, its middle, where its mark is, and its end. */
const POINTS = 3

/** Grid line distances of counts, between which there are no lines: counts are integers. */
export const WHOLE = [1, 2, 5]
  .flatMap((n) => Array.from({ length: 13 }, (_, e) => n * 10 ** e))
  .sort((a, b) => a - b)

const theme = matchMedia('(prefers-color-scheme: dark)')
/** @param {string} name */
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

/**
 * Adds a caption and a chart to a <figure>. The chart supports the keys of a slider, so that its values are accessible
 * without a pointer.
 * @param {HTMLElement} figure
 * @param {Line[]} lines
 * @param {{ tick: (value: number) => string, incrs?: number[], least: number }} axisOfValues `least`: its shortest length
 */
export function createChart(figure, lines, { tick, incrs, least }) {
  const caption = figure.appendChild(document.createElement('figcaption'))
  const values = lines.map((line) => legend(caption, line))
  const when = caption.appendChild(document.createElement('span'))
  when.className = 'when'
  const plot = figure.appendChild(document.createElement('div'))
  plot.className = 'plot'
  plot.tabIndex = 0
  plot.role = 'slider'
  plot.ariaLabel = lines.map(({ label }) => label).join(', ')

  /** @type {View} */
  let view = { from: 0, intervals: [], per: '', isUtc: false }
  /** The index of the selected interval, or -1. */
  let current = -1

  /** @type {uPlot.Axis} */
  const axis = {
    font: '11px system-ui, sans-serif',
    stroke: () => color('--muted'),
    grid: { stroke: () => color('--grid'), width: 1 },
    ticks: { show: false },
  }
  /** @type {uPlot.Series.Points} */
  const points = {
    show: true,
    size: 6,
    filter: (u, n) => (view.intervals.length > FEW ? [] : middlesOf(u.data[n] ?? [])),
  }
  const chart = new uPlot(
    {
      ...size(),
      padding: [8, 22, 0, 0],
      legend: { show: false },
      tzDate: (s) => (view.isUtc ? uPlot.tzDate(new Date(s * 1000), 'Etc/UTC') : new Date(s * 1000)),
      scales: {
        x: { range: () => extent(view) },
        y: { range: (_u, _min, max) => [0, Math.max((max || 0) * 1.08, least)] },
      },
      axes: [
        {
          ...axis,
          size: X_AXIS_PX,
          space: 72,
          gap: 4,
          values: (_u, splits, _axis, _space, step) => splits.map((s) => tickOfTime(s, step, view.isUtc)),
        },
        {
          ...axis,
          size: Y_AXIS_PX,
          space: 28,
          gap: 4,
          ...(incrs && { incrs }),
          values: (_u, splits) => splits.map(tick),
        },
      ],
      series: [
        {},
        ...lines.flatMap((line) => {
          const { width = 1.5 } = line
          const stroke = () => color(line.color)
          const series = { stroke: width > WIDE_PX ? () => `${stroke()}99` : stroke, width }
          return [
            {
              ...series,
              points: { ...points, stroke, fill: stroke },
              ...(lines.length === 1 && { fill: () => `${stroke()}22` }),
            },
            { ...series, dash: DASHES, points: { ...points, stroke, fill: () => color('--panel') } },
          ]
        }),
      ],
      cursor: {
        y: false,
        points: { show: false },
        drag: { x: false, y: false },
        sync: { key: 'time', scales: ['x', null] },
      },
      hooks: { setCursor: [readOut] },
    },
    [[], ...lines.flatMap(() => [[], []])],
    plot,
  )
  new ResizeObserver(() => chart.setSize(size())).observe(plot)
  theme.addEventListener('change', () => chart.redraw())
  plot.addEventListener('keydown', onKey)
  plot.addEventListener('blur', () => chart.setCursor({ left: -10, top: -10 }))

  function size() {
    return { width: plot.clientWidth, height: plot.clientHeight }
  }

  /** Shows the figures of the interval under the cursor, which another chart may have moved. @param {uPlot} u */
  function readOut(u) {
    const left = u.cursor.left ?? -1
    const at = left < 0 ? Number.NaN : u.posToVal(left, 'x') * 1000
    current = view.intervals.findIndex(({ start, end }) => start <= at && at < end)
    const interval = view.intervals[current]
    for (const [n, line] of lines.entries()) {
      const value = values[n]
      if (value) value.textContent = interval ? textOfLine(line, interval) : ''
    }
    when.textContent = interval ? spanOf(interval, view) : view.per
    if (!interval) {
      u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false)
      return
    }
    const start = u.valToPos(startOf(interval) / 1000, 'x')
    const width = Math.max(1, u.valToPos(interval.end / 1000, 'x') - start)
    u.setSelect({ left: start, top: 0, width, height: u.over.clientHeight }, false)
    plot.ariaValueNow = String(current)
    plot.ariaValueText = textOf(interval)
  }

  /** @param {Interval} interval */
  function textOf(interval) {
    const figures = lines.map((line) => `${line.label} ${textOfLine(line, interval)}`)
    return `${spanOf(interval, view)}: ${figures.join(', ')}`
  }

  /** Where the interval begins on the axis. @param {Interval} interval */
  function startOf({ start }) {
    return Math.max(start, view.from)
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
    const middle = (startOf(interval) + interval.end) / 2000
    chart.setCursor({ left: chart.valToPos(middle, 'x'), top: 0 })
  }

  return {
    /** @param {View} next */
    show(next) {
      view = next
      const { intervals } = next
      const times = intervals.flatMap((interval) => {
        const start = startOf(interval)
        return [start, (start + interval.end) / 2, interval.end].map((ms) => ms / 1000)
      })
      const figures = lines.flatMap(({ figure }) =>
        [false, true].map((isCurrent) =>
          intervals.flatMap((interval) => {
            const isShown = interval.snapshots > 0 && (interval.isCurrent ?? false) === isCurrent
            return new Array(POINTS).fill(isShown ? figure(interval) : null)
          }),
        ),
      )
      chart.setData([times, ...figures])
      plot.ariaValueMin = '0'
      plot.ariaValueMax = String(Math.max(0, intervals.length - 1))
      const newest = intervals.at(-1)
      plot.ariaValueNow = plot.ariaValueMax
      plot.ariaValueText = newest ? textOf(newest) : ''
      readOut(chart)
    },
  }
}

/** The time that the axis shows, in seconds: as much of the range as something is known of. @param {View} view */
function extent({ from, intervals }) {
  const to = intervals.at(-1)?.end ?? from + SHORTEST_MS
  const first = Math.max(from, intervals[0]?.start ?? from)
  return /** @type {[number, number]} */ ([Math.min(first, to - SHORTEST_MS) / 1000, to / 1000])
}

/** The indices of the marks in a series. @param {ArrayLike<number | null | undefined>} series */
function middlesOf(series) {
  const middles = []
  for (let n = 1; n < series.length; n += POINTS) if (typeof series[n] === 'number') middles.push(n)
  return middles
}

/** @param {Line} line @param {Interval} interval */
const textOfLine = (line, interval) => (interval.snapshots > 0 ? line.text(interval) : '–')

/** Adds a legend entry to the caption; returns the element for its value. @param {HTMLElement} caption @param {Line} line */
function legend(caption, { label, color: name, width = 1.5 }) {
  const item = caption.appendChild(document.createElement('span'))
  item.className = 'legend'
  const swatch = item.appendChild(document.createElement('i'))
  swatch.className = 'swatch'
  swatch.style.setProperty('--color', `var(${name})`)
  swatch.style.setProperty('--width', `${Math.max(2, width)}px`)
  if (width > WIDE_PX) swatch.classList.add('wide')
  item.append(label)
  const value = item.appendChild(document.createElement('b'))
  return value
}

/** @param {number} s @param {number} stepS @param {boolean} isUtc */
function tickOfTime(s, stepS, isUtc) {
  const date = new Date(s * 1000)
  const isMidnight = isUtc || (date.getHours() === 0 && date.getMinutes() === 0 && date.getSeconds() === 0)
  return new Intl.DateTimeFormat(undefined, {
    ...(isMidnight || stepS >= DAY_S
      ? { month: 'short', day: 'numeric' }
      : { hour: 'numeric', minute: '2-digit', ...(stepS < MINUTE_S && { second: '2-digit' }) }),
    ...(isUtc && { timeZone: 'UTC' }),
  }).format(date)
}

/** @param {Interval} interval @param {View} view */
function spanOf({ start, end, isCurrent }, { isUtc }) {
  const sofar = isCurrent ? ', so far' : ''
  const day = /** @type {const} */ ({ weekday: 'short', month: 'short', day: 'numeric' })
  if (isUtc) return new Intl.DateTimeFormat(undefined, { ...day, timeZone: 'UTC' }).format(start) + sofar
  const seconds = end - start < 2 * MINUTE_S * 1000 ? /** @type {const} */ ({ second: '2-digit' }) : {}
  const format = new Intl.DateTimeFormat(undefined, {
    ...day,
    hour: 'numeric',
    minute: '2-digit',
    ...seconds,
  })
  return format.formatRange(start, end) + sofar
}
