// @ts-check
// Writes the service's responses into the page, as text and never as markup.

import { createChart } from './charts.js'
import { ageOf, counted, duration, now, number, share, time } from './format.js'

/** @typedef {import('./history.js').Snapshot} Snapshot */
/** @typedef {import('./history.js').SnapshotPage} SnapshotPage */
/** @typedef {import('./history.js').Delivery} Delivery */
/** @typedef {Awaited<ReturnType<typeof import('./history.js').readHistory>>} History */
/** @typedef {{ replica_id: string, name: string, version: string, started_at: string, last_flush_at: string | null }} Replica */

/** A replica without a flush for this long has probably stopped, and is dimmed. */
const SILENT_MS = 86_400_000

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

/** @param {Snapshot} preview */
export function showPeriod(preview) {
  const since = time(preview.period_start)
  element('since', HTMLElement).replaceChildren('since ', since, ` (${duration(preview.period_duration_ms)})`)
  writeCounts('now', preview)
  write('now-replicas', number(preview.replicas))
}

/** @param {string} prefix @param {import('./history.js').Counts} counts */
function writeCounts(prefix, counts) {
  write(`${prefix}-allowed`, number(counts.allowed_requests))
  write(`${prefix}-denied`, number(counts.denied_requests))
  write(`${prefix}-share`, share(counts.denied_requests, counts.allowed_requests))
  write(`${prefix}-duplicates`, number(counts.duplicate_requests))
  write(`${prefix}-missing`, number(counts.missing_requests))
  const { recovered_requests: recovered } = counts
  write(`${prefix}-recovered`, recovered === 0 ? '' : `${number(recovered)} recovered`)
  write(`${prefix}-users`, number(counts.unique_users))
  write(`${prefix}-workspaces`, number(counts.unique_workspaces))
}

const allowed = createChart(element('chart-allowed', HTMLElement), [
  { count: 'allowed_requests', label: 'Allowed', color: '--allowed' },
])
const denied = createChart(element('chart-denied', HTMLElement), [
  { count: 'denied_requests', label: 'Denied', color: '--denied' },
])
const distinct = createChart(element('chart-distinct', HTMLElement), [
  { count: 'unique_users', label: 'Users', color: '--users' },
  { count: 'unique_workspaces', label: 'Workspaces', color: '--workspaces', dash: [5, 3] },
])

/** @param {History} history */
export function showHistory({ from, to, total, requests, buckets, perRequest, perBucket, isUtc }) {
  element('span', HTMLElement).replaceChildren('since ', time(new Date(from).toISOString()))
  writeCounts('past', total)
  write('past-snapshots', number(total.snapshots))
  allowed.show({ from, to, intervals: requests, per: perRequest, isUtc })
  denied.show({ from, to, intervals: requests, per: perRequest, isUtc })
  distinct.show({ from, to, intervals: buckets, per: perBucket, isUtc })
}

/** @param {SnapshotPage['snapshots']} snapshots */
export function showSnapshots(snapshots) {
  fill('snapshots', snapshots, 12, 'No snapshots yet. The first one ends the current period.', (snapshot) => [
    time(snapshot.period_end),
    duration(snapshot.period_duration_ms),
    snapshot.allowed_requests,
    snapshot.denied_requests,
    snapshot.duplicate_requests,
    snapshot.missing_requests,
    snapshot.recovered_requests,
    snapshot.unique_users,
    snapshot.unique_workspaces,
    snapshot.replicas,
    snapshot.trigger,
    deliveryOf(snapshot.delivery),
  ])
}

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

/** @param {Replica[]} replicas */
export function showReplicas(replicas) {
  const newestFirst = [...replicas].sort((a, b) => lastSign(b) - lastSign(a))
  fill('replicas', newestFirst, 4, 'No replicas yet.', (replica) => {
    const name = document.createElement('span')
    name.textContent = replica.name
    name.title = replica.replica_id
    if (now() - lastSign(replica) > SILENT_MS) name.className = 'silent'
    return [
      name,
      replica.last_flush_at === null ? 'never' : ageOf(replica.last_flush_at),
      ageOf(replica.started_at),
      replica.version,
    ]
  })
}

/** @param {Replica} replica */
const lastSign = ({ last_flush_at, started_at }) => Date.parse(last_flush_at ?? started_at)

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
