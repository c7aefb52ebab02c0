// @ts-check
// The status page: asks for a token if one is required, then shows the service's state and refreshes it.

import { Failure, hasToken, request, useToken } from './api.js'
import { age, counted, now, number, setClock, time, updateAges } from './format.js'
import { RANGES, readHistory } from './history.js'
import { element, showHistory, showPeriod, showReplicas, showSnapshots, write } from './view.js'

/** @typedef {import('./history.js').Range} Range */

/** Each refresh makes the replica flush, so the interval is long. */
const REFRESH_MS = 15_000
/** The delay after a failure; it doubles with each further failure. */
const RETRY_MS = 5_000
const MAX_RETRY_MS = 60_000
const AGES_MS = 1_000
const HOUR_MS = 3_600_000
const LAST_SNAPSHOTS = 10

const main = element('main', HTMLElement)
const form = element('token-form', HTMLFormElement)
const input = element('token', HTMLInputElement)
const dialog = element('dialog', HTMLDialogElement)
const take = element('take', HTMLButtonElement)
const confirm = element('confirm', HTMLButtonElement)
const forget = element('forget', HTMLButtonElement)
const copy = element('copy', HTMLButtonElement)
const ranges = element('ranges', HTMLFormElement)

/** @type {import('./history.js').Snapshot | undefined} */
let period
/** Identifies what the charts show: range, latest snapshot, and the hour in which they were read. */
let charted = ''
let refreshedAt = 0
let dueAt = 0
let failures = 0
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer
/** The number of the latest refresh. Responses to an earlier one are discarded. */
let turn = 0

async function refresh() {
  const mine = ++turn
  dueAt = Date.now() + REFRESH_MS
  try {
    /** @type {{ replicas: import('./view.js').Replica[] }} */
    const { replicas } = await request('telemetry/replicas') // first and alone, because it verifies the token
    /** @type {[import('./history.js').Snapshot, import('./history.js').SnapshotPage]} */
    const [preview, { snapshots, next }] = await Promise.all([
      request('telemetry/snapshot'),
      request(`telemetry/snapshots?limit=${LAST_SNAPSHOTS}`),
    ])
    if (mine !== turn) return
    setClock(preview.taken_at)
    period = preview
    open()
    showPeriod(preview)
    showSnapshots(snapshots)
    showReplicas(replicas)
    const isUnused = [preview, ...snapshots].every((of) => of.allowed_requests + of.denied_requests === 0)
    showFirstBatch(next === null && isUnused)

    const range = chosenRange()
    const toChart = [range, snapshots[0]?.id, Math.floor(now() / HOUR_MS)].join()
    if (toChart !== charted) {
      const history = await readHistory(range, now()) // takes seconds for a quarter
      if (mine !== turn) return
      showHistory(history)
      charted = toChart
    }
    failures = 0
    refreshedAt = Date.parse(preview.taken_at)
    setState('good', 'Up to date')
  } catch (error) {
    if (mine === turn) fail(error)
  } finally {
    if (mine === turn) schedule()
  }
}

/** Schedules the next refresh, unless the page is hidden or waits for a token. */
function schedule() {
  clearTimeout(timer)
  if (document.visibilityState === 'visible' && form.hidden)
    timer = setTimeout(refresh, Math.max(0, dueAt - Date.now()))
}

/** Shows what failed, and schedules a retry. @param {unknown} error */
function fail(error) {
  if (!(error instanceof Failure)) {
    setState('bad', 'An error occurred in this page. The browser console has the details.')
    throw error
  }
  if (error.isRejected) return askForToken(hasToken() ? error.message : '')
  const backoffMs = Math.min(RETRY_MS * 2 ** failures++, MAX_RETRY_MS)
  dueAt = Date.now() + Math.max(backoffMs, error.retryAfterS * 1000)
  form.hidden = true
  setState('bad', `${error.message} Retrying.`)
}

/** @param {'' | 'good' | 'bad'} kind @param {string} text */
function setState(kind, text) {
  element('state', HTMLElement).className = `state ${kind}`
  main.classList.toggle('stale', kind === 'bad')
  write('status', text)
  tick()
}

function tick() {
  write('refreshed', main.hidden || refreshedAt === 0 ? '' : `· updated ${age(refreshedAt)}`)
  updateAges()
}

function open() {
  if (!main.hidden) return
  main.hidden = false
  forget.hidden = !hasToken()
  if (form.hidden) return
  form.hidden = true
  main.focus() // the focused form is now hidden
}

/** @param {string} rejection why the service rejected the previous token */
function askForToken(rejection) {
  useToken('')
  dialog.close()
  main.hidden = true
  forget.hidden = true
  form.hidden = false
  setState('', 'Admin token required')
  write('rejection', rejection)
  input.focus()
}

form.addEventListener('submit', (event) => {
  event.preventDefault()
  useToken(input.value.trim())
  input.value = ''
  write('rejection', '')
  void refresh()
})

forget.addEventListener('click', () => location.reload()) // the token exists only in memory

/** @param {boolean} isFirst */
function showFirstBatch(isFirst) {
  element('first', HTMLElement).hidden = !isFirst
  element('curl-token', HTMLElement).hidden = !hasToken()
}

write('curl-url', new URL('boundary/logs', document.baseURI).href)
copy.hidden = !navigator.clipboard // available only in secure contexts
copy.addEventListener('click', async () => {
  await navigator.clipboard.writeText(element('curl', HTMLElement).innerText)
  copy.textContent = 'Copied'
})

function chosenRange() {
  const chosen = new FormData(ranges).get('range')
  return isRange(chosen) ? chosen : 'day'
}

/** @param {unknown} value @returns {value is Range} */
function isRange(value) {
  return typeof value === 'string' && Object.hasOwn(RANGES, value)
}

ranges.addEventListener('change', () => {
  history.replaceState(null, '', `#${chosenRange()}`) // so that a reload keeps the range
  charted = ''
  write('span', 'loading…')
  void refresh()
})

take.addEventListener('click', () => {
  if (!period) return
  const { allowed_requests, denied_requests, period_start } = period
  write(
    'dialog-text',
    `This ends the current period (since ${time(period_start).textContent}: ${number(allowed_requests)} allowed ` +
      `and ${number(denied_requests)} denied requests so far) and starts the next one. It cannot be undone.`,
  )
  dialog.showModal()
})

element('cancel', HTMLButtonElement).addEventListener('click', () => dialog.close())

confirm.addEventListener('click', async () => {
  confirm.disabled = true
  try {
    /** @type {import('./history.js').Snapshot} */
    const taken = await request('telemetry/snapshot', 'POST')
    report(
      'good',
      `Snapshot taken at ${time(taken.taken_at).textContent}: ${number(taken.allowed_requests)} allowed, ` +
        `${number(taken.denied_requests)} denied, ${counted(taken.unique_users, 'user')}, ` +
        `${counted(taken.unique_workspaces, 'workspace')}, ${counted(taken.replicas, 'replica')}. A new period has started.`,
    )
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    if (error.isRejected) return askForToken(error.message)
    // The response to this page, or to the service's commit, may have been lost after the snapshot was recorded.
    const isUnknown = error.status === 0 || error.status >= 500
    const outcome = isUnknown
      ? 'It is unknown whether a snapshot was taken: check the list below.'
      : 'No snapshot was taken.'
    report('bad', `${outcome} ${error.message}`)
  } finally {
    confirm.disabled = false
    dialog.close()
  }
  void refresh()
})

/** @param {'good' | 'bad'} kind @param {string} text */
function report(kind, text) {
  element('taken', HTMLElement).className = `hint ${kind}`
  write('taken', text)
}

const asked = location.hash.slice(1)
for (const radio of ranges.querySelectorAll('input'))
  radio.checked = radio.value === (isRange(asked) ? asked : 'day')
document.addEventListener('visibilitychange', schedule)
addEventListener('online', () => {
  if (form.hidden) void refresh()
})
setInterval(tick, AGES_MS)
void refresh()
