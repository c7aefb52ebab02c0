// @ts-check
// Writes the service's responses into the page, as text and never as markup.

import { createChart, WHOLE } from './charts.js'
import { ageOf, change, counted, duration, number, share, shortNumber, TIME_ZONE, time } from './format.js'
import { deniedShare, intervalsWith, RANGES, sumOfNew, toCsv } from './history.js'

/** @typedef {import('./history.js').Counts} Counts */
/** @typedef {import('./history.js').Interval} Interval */
/** @typedef {import('./history.js').Snapshot} Snapshot */
/** @typedef {import('./history.js').SnapshotPage} SnapshotPage */
/** @typedef {import('./history.js').Delivery} Delivery */
/** @typedef {import('./history.js').History} History */
/** @typedef {{ name: string, ok: boolean, message: string, runbook: string }} Check */
/** @typedef {{ ok: boolean, checks: Check[] }} Status */
/**
 * @typedef {{ replica_id: string, name: string, version: string, started_at: string, last_flush_at: string | null,
 *   seen_at: string | null, state: 'live' | 'silent' | 'stopped', reporting: boolean }} Replica
 */

/**
 * The element with the given id, checked to be a `kind`.
 * @template {HTMLElement} E
 * @param {string} id
 * @param {new () => E} kind
 */
export function element(id, kind) {
  const found = document.getElementById(id)
  if (!(found instanceof kind)) throw new Error(`no ${kind.name} #${id}`)
  return found
}

/** @param {string} id @param {string} text */
export function write(id, text) {
  const target = element(id, HTMLElement)
  // Every change makes live regions speak and clears a selection, so unchanged text is not written.
  if (target.textContent !== text) target.textContent = text
}

/**
 * Shows what needs attention, with the runbooks, and folds away what is well.
 * @param {Status} status
 * @param {string} notice what needs attention beside the checks
 */
export function showChecks({ checks }, notice) {
  const [failed, well] = [checks.filter(({ ok }) => !ok), checks.filter(({ ok }) => ok)]
  const noticed = notice === '' ? [] : [{ name: 'denied_requests', message: notice }]
  const attention = element('attention', HTMLElement)
  attention.hidden = failed.length + noticed.length === 0
  attention.replaceChildren(
    ...failed.map((check) => itemOf(check, 'bad')),
    ...noticed.map((item) => itemOf(item, 'warn')),
  )
  element('all-well', HTMLElement).hidden = well.length === 0
  write('well-summary', `${counted(well.length, 'check')} ${well.length === 1 ? 'is' : 'are'} ok`)
  element('well', HTMLElement).replaceChildren(...well.map((check) => itemOf(check, 'good')))
}

/** The names of checks in words. @param {string} name */
export const inWords = (name) => name.replaceAll('_', ' ')

/** @param {{ name: string, message: string, runbook?: string }} check @param {'good' | 'warn' | 'bad'} kind */
function itemOf({ name, message, runbook }, kind) {
  const item = document.createElement('li')
  item.className = `check ${kind}`
  const title = item.appendChild(document.createElement('b'))
  title.className = 'name'
  title.textContent = inWords(name.charAt(0).toUpperCase() + name.slice(1))
  item.append(` ${message} `)
  if (runbook !== undefined) {
    const link = item.appendChild(document.createElement('a'))
    link.href = runbook
    link.textContent = 'Runbook'
    link.ariaLabel = `Runbook: ${inWords(name)}`
  }
  return item
}

const FIGURES = /** @type {const} */ ([
  ['allowed', 'Allowed requests'],
  ['denied', 'Denied requests'],
  ['share', 'Denied share'],
  ['users', 'Distinct users'],
  ['workspaces', 'Distinct workspaces'],
  ['duplicates', 'Duplicate logs'],
  ['missing', 'Missing logs'],
])
for (const [prefix, last] of /** @type {const} */ ([
  ['now', ['replicas', 'Reporting replicas']],
  ['past', ['snapshots', 'Snapshots']],
])) {
  const cells = [...FIGURES, last].map(([name, label]) => {
    const cell = document.createElement('div')
    cell.appendChild(document.createElement('dt')).textContent = label
    for (const id of [`${prefix}-${name}`, `${prefix}-${name}-note`])
      cell.appendChild(document.createElement('dd')).id = id
    return cell
  })
  element(`${prefix}-counts`, HTMLElement).replaceChildren(...cells)
}

/** How much of the previous period's time must have passed before its rate can be compared. */
const LEAST_PROGRESS = 0.05

/** @param {Snapshot} preview @param {Snapshot | undefined} previous the period before it */
export function showPeriod(preview, previous) {
  const since = time(preview.period_start)
  element('since', HTMLElement).replaceChildren('since ', since, ` (${duration(preview.period_duration_ms)})`)
  writeCounts('now', preview)
  write('now-replicas', number(preview.replicas))
  if (!previous) return
  /** A period in progress is compared by its rate, unless it has only begun. */
  const progress = preview.period_duration_ms / Math.max(1, previous.period_duration_ms)
  for (const [name, count] of REQUESTS) {
    const rate = progress < LEAST_PROGRESS ? '' : change(preview[count] / progress, previous[count])
    note(`now-${name}`, `was ${number(previous[count])}`, rate && `rate ${rate}`)
  }
  note('now-share', `was ${share(deniedShare(previous))}`)
  for (const [name, count] of DISTINCT) note(`now-${name}`, `was ${number(previous[count])}`)
}

const REQUESTS = /** @type {const} */ ([
  ['allowed', 'allowed_requests'],
  ['denied', 'denied_requests'],
])
const DISTINCT = /** @type {const} */ ([
  ['users', 'unique_users'],
  ['workspaces', 'unique_workspaces'],
])

/** @param {string} prefix @param {Counts} counts */
function writeCounts(prefix, counts) {
  write(`${prefix}-allowed`, number(counts.allowed_requests))
  write(`${prefix}-denied`, number(counts.denied_requests))
  write(`${prefix}-share`, share(deniedShare(counts)))
  write(`${prefix}-users`, number(counts.unique_users))
  write(`${prefix}-workspaces`, number(counts.unique_workspaces))
  write(`${prefix}-duplicates`, number(counts.duplicate_requests))
  write(`${prefix}-missing`, number(counts.missing_requests))
  const { recovered_requests: recovered } = counts
  note(`${prefix}-missing`, recovered === 0 ? undefined : `${number(recovered)} recovered`)
}

/** Writes what belongs to a figure under it. @param {string} id @param {(string | undefined)[]} parts */
function note(id, ...parts) {
  write(`${id}-note`, parts.filter(Boolean).join(', '))
}

/** @param {'allowed_requests' | 'denied_requests'} count @param {string} label @param {string} color */
const requestLine = (count, label, color) => ({
  label,
  color,
  figure: (/** @type {Interval} */ interval) => interval[count],
  text: (/** @type {Interval} */ interval) => number(interval[count]),
})
const counts = { tick: shortNumber, incrs: WHOLE, least: 4 }
const charts = [
  createChart(
    element('chart-allowed', HTMLElement),
    [requestLine('allowed_requests', 'Allowed', '--allowed')],
    counts,
  ),
  createChart(
    element('chart-denied', HTMLElement),
    [requestLine('denied_requests', 'Denied', '--denied')],
    counts,
  ),
  createChart(
    element('chart-share', HTMLElement),
    [
      {
        label: 'Denied share',
        color: '--denied',
        figure: deniedShare,
        text: (interval) => share(deniedShare(interval)),
      },
    ],
    { tick: share, least: 0.02 },
  ),
  createChart(
    element('chart-distinct', HTMLElement),
    [
      distinctLine('unique_users', 'new_users', 'Users', '--users', 6),
      distinctLine('unique_workspaces', 'new_workspaces', 'Workspaces', '--workspaces', 2),
    ],
    counts,
  ),
]

/**
 * Of equal lines, the thin one is in the middle of the wide one.
 * @param {'unique_users' | 'unique_workspaces'} count
 * @param {'new_users' | 'new_workspaces'} news
 * @param {string} label
 * @param {string} color
 * @param {number} width
 */
function distinctLine(count, news, label, color, width) {
  return {
    label,
    color,
    width,
    figure: (/** @type {Interval} */ interval) => interval[count],
    text: (/** @type {Interval} */ interval) => {
      const fresh = interval[news]
      return (
        number(interval[count]) + (fresh === undefined || fresh === null ? '' : ` (${number(fresh)} new)`)
      )
    },
  }
}

const PER = /** @type {const} */ ({
  hour: ['per period', 'the current period'],
  day: ['per hour', 'this hour'],
  week: ['per hour', 'this hour'],
  month: ['per day', 'today'],
  quarter: ['per day', 'today'],
})

/** @param {History} history @param {Snapshot} current */
export function showHistory(history, current) {
  const { from, intervals } = intervalsWith(history, current)
  const { range, total } = history
  const previous = total.snapshots === 0 ? undefined : history.previous
  /** Days are UTC days, so their axis must be in UTC. */
  const isUtc = RANGES[range].by === 'day'
  element('span', HTMLElement).replaceChildren(
    'since ',
    time(new Date(from).toISOString()),
    ` · times in ${TIME_ZONE}${isUtc ? ', days in UTC' : ''}`,
  )
  writeCounts('past', total)
  write('past-snapshots', number(total.snapshots))
  for (const [name, count] of REQUESTS)
    note(`past-${name}`, previous && compared(total[count], previous[count]))
  note('past-share', previous && `from ${share(deniedShare(previous))}`)
  for (const [name, count] of DISTINCT) {
    const fresh = sumOfNew(intervals, name === 'users' ? 'new_users' : 'new_workspaces')
    note(
      `past-${name}`,
      fresh === undefined ? undefined : `${number(fresh)} new`,
      previous && compared(total[count], previous[count]),
    )
  }
  const [per, now] = PER[range]
  for (const chart of charts) chart.show({ from, intervals, isUtc, per: `${per}; dashed: ${now}, so far` })
  offerCsv(history, intervals)
}

/** @param {number} now @param {number} before */
const compared = (now, before) => [change(now, before), `from ${number(before)}`].filter(Boolean).join(' ')

/** The history that the link to the CSV contains. @type {History | undefined} */
let offered

/** @param {History} history @param {Interval[]} intervals */
function offerCsv(history, intervals) {
  if (offered === history) return
  offered = history
  const link = element('csv', HTMLAnchorElement)
  URL.revokeObjectURL(link.href)
  link.href = URL.createObjectURL(new Blob([toCsv(intervals)], { type: 'text/csv' }))
  link.download = `boundary-usage-${history.range}.csv`
}

/** @param {SnapshotPage['snapshots']} snapshots */
export function showSnapshots(snapshots) {
  fill('snapshots', snapshots, 11, 'No snapshots yet. The first one ends the current period.', (snapshot) => [
    time(snapshot.period_end),
    duration(snapshot.period_duration_ms),
    snapshot.allowed_requests,
    snapshot.denied_requests,
    snapshot.duplicate_requests,
    withNote(snapshot.missing_requests, snapshot.recovered_requests, 'recovered'),
    snapshot.unique_users,
    snapshot.unique_workspaces,
    withNote(snapshot.replicas, snapshot.late_replicas ?? 0, 'late'),
    snapshot.trigger,
    deliveryOf(snapshot.delivery),
  ])
}

/** @param {number} count @param {number} noted @param {string} what */
const withNote = (count, noted, what) => (noted === 0 ? count : `${number(count)} (${number(noted)} ${what})`)

/** @param {Delivery | null} delivery */
function deliveryOf(delivery) {
  const cell = document.createElement('span')
  if (delivery === null) {
    cell.textContent = 'no sink'
    return cell
  }
  const { state, attempts, delivered_at, due_at, error } = delivery
  cell.className = state
  cell.textContent = state
  if (state === 'delivered') cell.title = `delivered at ${delivered_at}, attempt ${attempts}`
  else cell.append(attempts === 0 ? '' : ` (${counted(attempts, 'attempt')}, ${error ?? 'no response'})`)
  if (state === 'pending') cell.title = `next attempt at ${due_at}`
  return cell
}

const STATES = ['live', 'silent', 'stopped']

/** @param {Replica[]} replicas */
export function showReplicas(replicas) {
  const inOrder = [...replicas].sort(
    (a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state) || lastSign(b) - lastSign(a),
  )
  fill('replicas', inOrder, 6, 'No replicas yet.', (replica) => {
    const name = document.createElement('span')
    name.textContent = replica.name
    name.title = replica.replica_id
    const state = document.createElement('span')
    state.className = replica.state
    state.textContent = replica.state + (replica.reporting ? ', reporting' : '')
    return [
      name,
      state,
      ageOrNever(replica.seen_at),
      ageOrNever(replica.last_flush_at),
      ageOf(replica.started_at),
      replica.version,
    ]
  })
}

/** @param {string | null} at */
const ageOrNever = (at) => (at === null ? 'never' : ageOf(at))

/** @param {Replica} replica */
const lastSign = ({ seen_at, last_flush_at, started_at }) =>
  Date.parse(seen_at ?? last_flush_at ?? started_at)

/** The contents of each table. An unchanged table is not rewritten, so that a selection in it is kept. */
const shown = new Map()

/**
 * @template T
 * @param {string} id
 * @param {T[]} items
 * @param {number} columns
 * @param {string} nothing the text to show if there are no items
 * @param {(item: T) => (string | number | Node)[]} cellsOf
 */
function fill(id, items, columns, nothing, cellsOf) {
  const key = JSON.stringify(items)
  if (shown.get(id) === key) return
  shown.set(id, key)
  const body = element(id, HTMLElement)
  body.replaceChildren(...items.map((item) => row(cellsOf(item))))
  if (items.length > 0) return
  const only = row([nothing])
  const [cell] = only.cells
  if (cell) cell.colSpan = columns
  body.append(only)
}

/** @param {(string | number | Node)[]} contents */
function row(contents) {
  const tr = document.createElement('tr')
  for (const content of contents) {
    const td = tr.insertCell()
    if (typeof content === 'number') td.className = 'n'
    td.append(typeof content === 'number' ? number(content) : content)
  }
  return tr
}
