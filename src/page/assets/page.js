// @ts-check
// The status page: asks for a token if one is required, then shows the service's state and refreshes it.

import { Failure, hasToken, request, useToken } from './api.js'
import { age, counted, now, number, setClock, share, time, updateAges } from './format.js'
import { deniedShare, RANGES, readHistory } from './history.js'
import {
  element,
  inWords,
  showChecks,
  showHistory,
  showPeriod,
  showReplicas,
  showSnapshots,
  write,
} from './view.js'

/** @typedef {import('./history.js').Range} Range */
/** @typedef {import('./history.js').Snapshot} Snapshot */
/** @typedef {import('./history.js').SnapshotPage} SnapshotPage */
/** @typedef {import('./view.js').Status} Status */

/** Each refresh makes the replica flush, so the interval is long. */
const REFRESH_MS = 15_000
/** The delay after a failure; it doubles with each further failure. */
const RETRY_MS = 5_000
const MAX_RETRY_MS = 60_000
const AGES_MS = 1_000
const HOUR_MS = 3_600_000
const LAST_SNAPSHOTS = 10
/** The denied share needs attention at so many times that of the latest periods, and from so many denied requests on. */
const RISE = 2
const LEAST_DENIED = 20

const main = element('main', HTMLElement)
const form = element('token-form', HTMLFormElement)
const input = element('token', HTMLInputElement)
const keep = element('keep', HTMLInputElement)
const dialog = element('dialog', HTMLDialogElement)
const take = element('take', HTMLButtonElement)
const confirm = element('confirm', HTMLButtonElement)
const forget = element('forget', HTMLButtonElement)
const copy = element('copy', HTMLButtonElement)
const ranges = element('ranges', HTMLFormElement)
const older = element('older', HTMLButtonElement)
const newest = element('newest', HTMLButtonElement)

/** @type {Snapshot | undefined} */
let period
/** @type {import('./history.js').History | undefined} */
let past
/** Identifies `past`: range, latest snapshot, and the hour in which it was read. */
let read = ''
/** The page of snapshots that ended before this time; the newest ones if it is empty. */
let before = ''
let nextBefore = ''
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
    /** @type {Status} */
    const status = await request('telemetry/status') // first and alone: verifies the token, and needs no database
    if (mine !== turn) return
    open()
    showChecks(status, '')
    const database = status.checks.find(({ name }) => name === 'database')
    if (database?.ok === false) throw new Failure(database.message, { status: 503, isChecked: true })

    /** @type {[Snapshot, SnapshotPage]} */
    const [preview, latest] = await Promise.all([
      request('telemetry/snapshot'),
      request(`telemetry/snapshots?limit=${LAST_SNAPSHOTS}`),
    ])
    /** @type {[{ replicas: import('./view.js').Replica[] }, SnapshotPage]} */
    const [{ replicas }, chosen] = await Promise.all([
      request('telemetry/replicas'), // after the preview, for which the replica flushes
      before === '' ? latest : request(`telemetry/snapshots?limit=${LAST_SNAPSHOTS}&before=${before}`),
    ])
    if (mine !== turn) return
    setClock(preview.taken_at)
    period = preview
    main.classList.remove('empty')
    const notice = riseOf(preview, latest.snapshots)
    showChecks(status, notice)
    showPeriod(preview, latest.snapshots[0])
    showSnapshots(chosen.snapshots)
    nextBefore = chosen.next ?? ''
    older.disabled = nextBefore === ''
    newest.disabled = before === ''
    showReplicas(replicas)
    const isUnused = [preview, ...latest.snapshots].every(
      (of) => of.allowed_requests + of.denied_requests === 0,
    )
    showFirstBatch(latest.next === null && isUnused)

    const range = chosenRange(latest)
    const toRead = [range, latest.snapshots[0]?.id, Math.floor(now() / HOUR_MS)].join()
    if (toRead !== read || !past) {
      const history = await readHistory(range, now()) // takes seconds for a quarter
      if (mine !== turn) return
      past = history
      read = toRead
    }
    showHistory(past, preview)
    failures = 0
    refreshedAt = Date.parse(preview.taken_at)
    setState(...summaryOf(status, notice))
  } catch (error) {
    if (mine === turn) fail(error)
  } finally {
    if (mine === turn) schedule()
  }
}

/** The status in words. @param {Status} status @param {string} notice @returns {['good' | 'warn' | 'bad', string]} */
function summaryOf({ checks }, notice) {
  const failed = checks.filter(({ ok }) => !ok).map(({ name }) => inWords(name))
  if (failed.length > 0)
    return [
      'bad',
      `${counted(failed.length, 'check')} ${failed.length === 1 ? 'needs' : 'need'} attention: ${failed.join(', ')}`,
    ]
  return notice === ''
    ? ['good', 'All is well']
    : ['warn', 'All checks are ok, but denied requests have risen']
}

/**
 * A sentence if more is denied in this period than is usual; otherwise empty.
 * @param {Snapshot} preview
 * @param {Snapshot[]} latest the latest periods, of whose shares the median is the usual one
 */
function riseOf(preview, latest) {
  const shares = latest.flatMap((snapshot) => deniedShare(snapshot) ?? []).sort((a, b) => a - b)
  const usual = shares[Math.floor(shares.length / 2)]
  const denied = deniedShare(preview)
  if (usual === undefined || denied === null) return ''
  if (preview.denied_requests < LEAST_DENIED || denied < RISE * usual) return ''
  return `${share(denied)} of the requests of this period are denied; the median of the last ${counted(shares.length, 'period')} is ${share(usual)}.`
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
  setState('bad', `${error.message} Retrying.`, { isStale: true, areChecksStale: !error.isChecked })
}

/**
 * @param {'' | 'good' | 'warn' | 'bad'} kind
 * @param {string} text
 * @param {{ isStale?: boolean, areChecksStale?: boolean }} [what] what the page shows is from an earlier refresh
 */
function setState(kind, text, { isStale = false, areChecksStale = false } = {}) {
  element('state', HTMLElement).className = `state ${kind}`
  main.classList.toggle('stale', isStale && refreshedAt > 0)
  main.classList.toggle('stale-checks', areChecksStale)
  take.disabled = isStale || !period
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
  useToken(input.value.trim(), keep.checked)
  input.value = ''
  write('rejection', '')
  void refresh()
})

forget.addEventListener('click', () => {
  useToken('')
  location.reload()
})

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

/** Whether the user has chosen a range. Until then it is an hour, and a day once there is more than that. */
let isRangeChosen = isRange(location.hash.slice(1))
selectRange(isRangeChosen ? location.hash.slice(1) : 'hour')

/** @param {SnapshotPage} latest */
function chosenRange({ snapshots, next }) {
  if (!isRangeChosen) {
    const oldest = snapshots.at(-1)
    const isRecent = !oldest || Date.parse(oldest.period_start) > now() - HOUR_MS
    selectRange(next === null && isRecent ? 'hour' : 'day')
  }
  const chosen = new FormData(ranges).get('range')
  return isRange(chosen) ? chosen : 'day'
}

/** @param {string} range */
function selectRange(range) {
  for (const radio of ranges.querySelectorAll('input')) radio.checked = radio.value === range
}

/** @param {unknown} value @returns {value is Range} */
function isRange(value) {
  return typeof value === 'string' && Object.hasOwn(RANGES, value)
}

ranges.addEventListener('change', () => {
  isRangeChosen = true
  history.replaceState(null, '', `#${new FormData(ranges).get('range')}`) // so that a reload keeps the range
  write('span', 'loading…')
  void refresh()
})

older.addEventListener('click', () => {
  before = nextBefore
  void refresh()
})
newest.addEventListener('click', () => {
  before = ''
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
    /** @type {Snapshot} */
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

document.addEventListener('visibilitychange', schedule)
addEventListener('online', () => {
  if (form.hidden) void refresh()
})
setInterval(tick, AGES_MS)
void refresh()
