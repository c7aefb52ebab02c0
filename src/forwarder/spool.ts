// Unacknowledged logs on disk: segments of records that the next forwarder sends if this one is killed.
//
//   0000000000000001.segment   header record: the format's version and the ids to which its logs belong
//                              record: time, session id, the logs of an entry as they follow each other in a batch
//                              record …
//
// Segments only grow; one is removed when none of its entries is held any more.

import { constants } from 'node:fs'
import { chmod, type FileHandle, lstat, mkdir, open, readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { pause } from '../async.js'
import { SettingsError } from './config.js'
import { type Ids, sameIds } from './credentials.js'
import { type Log, Trouble } from './log.js'
import {
  contentAt,
  headerRecord,
  logsOf,
  readEntry,
  readHeader,
  readRecords,
  sizeOf,
  toRecord,
} from './records.js'
import type { Entry, Store } from './store.js'
import type { Totals } from './totals.js'

const SEGMENT_BYTES = 2 ** 20
/** With a zero in front, so that there is always a next name. */
const NAME = /^(0\d{15})\.segment$/
/** How long an entry may wait for others that are written with it. */
const GATHER_MS = 20
const MAX_WRITE_BYTES = 256 * 1024
/** How much may wait for the disk while it takes writes but is slow. */
const MAX_UNWRITTEN_BYTES = 8 * 2 ** 20
const RETRY_MS = 2_000

export interface SpoolRecord {
  readonly segment: Segment
  readonly offset: number
  readonly size: number
}

interface Segment {
  readonly name: string
  readonly path: string
  readonly ids: Ids
  size: number
  /** Entries whose record it has and that are still held. */
  readonly live: Set<Entry>
  liveBytes: number
}

export interface SpoolOptions {
  directory: string
  /** Of the store; files may take an eighth more, and two segments. */
  limit: number
  store: Store
  totals: Totals
  log: Log
}

/** Creates the spool's directory if need be; refuses a link. */
export async function prepareDirectory(directory: string): Promise<void> {
  const created = await mkdir(directory, { recursive: true, mode: 0o700 })
  const stats = await lstat(directory)
  if (!stats.isDirectory())
    throw new SettingsError(`--spool: ${directory} is a link or no directory: name the directory itself`)
  if (created !== undefined) await chmod(directory, 0o700) // whatever the umask is
}

export class Spool {
  readonly #options: SpoolOptions
  readonly #trouble: Trouble
  readonly #slow: Trouble
  readonly #segments = new Set<Segment>()
  /** Names of the segments that earlier forwarders left. */
  readonly #left: string[]
  #nextCounter: number
  /** Bytes of all segments. */
  #size = 0
  #active: { segment: Segment; handle: FileHandle } | undefined
  /** Entries without a record, or whose record is to move, oldest first. */
  readonly #unwritten = new Set<Entry>()
  #unwrittenBytes = 0
  /** How much of that waits because writes fail: it is in memory as without a spool, and not bounded here. */
  #failedBytes = 0
  #inWrite = new Set<Entry>()
  #timer: NodeJS.Timeout | undefined
  #writing: Promise<void> | undefined
  #compacting: Promise<void> | undefined

  /** Opens the spool in a directory that is prepared and locked. */
  static async open(options: SpoolOptions): Promise<Spool> {
    const names = (await readdir(options.directory)).filter((name) => NAME.test(name)).toSorted()
    return new Spool(options, names)
  }

  private constructor(options: SpoolOptions, names: string[]) {
    this.#options = options
    this.#left = names
    // Segments of this run come after whatever there is, also after what cannot be read.
    this.#nextCounter = Math.max(0, ...names.map((name) => Number(NAME.exec(name)?.[1]))) + 1
    const { log } = options
    this.#trouble = new Trouble(
      log,
      'cannot write to the spool: logs are kept in memory, and the disk is tried again',
      'writing to the spool again',
    )
    this.#slow = new Trouble(
      log,
      'the disk is too slow: dropping logs that wait for it',
      'the disk keeps up again',
    )
  }

  /** Hands all entries of earlier forwarders to the store. What cannot be read is skipped, and prevents no start. */
  async recover(): Promise<void> {
    const { log, store } = this.#options
    for (const name of this.#left) {
      try {
        await this.#recoverSegment(name)
      } catch (error) {
        log.warn('a spool segment cannot be read: it is left alone', { segment: name, reason: String(error) })
      }
    }
    store.adopted()
  }

  async #recoverSegment(name: string): Promise<void> {
    const { directory, log, store, totals } = this.#options
    const path = join(directory, name)
    const bytes = await readSegment(path)
    const records = readRecords(bytes)
    const first = records.next()
    if (first.done && first.value.isCutOff) return unlink(path) // before it had a log
    if (first.done || first.value.offset !== 0) throw new Error('its first record is damaged')
    const ids = readHeader(first.value.content)

    const segment: Segment = { name, path, ids, size: bytes.length, live: new Set(), liveBytes: 0 }
    this.#segments.add(segment)
    this.#size += segment.size
    let bad = 0
    for (;;) {
      const next = records.next()
      if (next.done) {
        bad += next.value.damaged
        break
      }
      const { content, offset, size } = next.value
      const record = readEntry(content)
      if (record === undefined) bad++
      else {
        const entry = store.adopt(ids, record.sessionId, record.logs, record.time)
        totals.logs_recovered += entry.logs
        this.#attach(entry, { segment, offset, size })
      }
    }
    totals.spool_records_bad += bad
    if (bad > 0) log.warn('skipped damaged records of a spool segment', { segment: name, records: bad })
    if (segment.live.size === 0) this.#remove(segment)
  }

  /** Writes an entry within 100 ms, if the disk can. */
  add(entry: Entry): void {
    const size = sizeOf(entry)
    this.#unwritten.add(entry)
    this.#unwrittenBytes += size
    if (this.#trouble.isFailing) this.#failedBytes += size
    else if (this.#unwrittenBytes - this.#failedBytes > MAX_UNWRITTEN_BYTES) this.#dropOldest()
    this.#schedule(GATHER_MS)
  }

  /** Forgets an entry that is not held any more. */
  forget(entry: Entry): void {
    this.#leaveUnwritten(entry)
    this.#detach(entry)
    this.#compactIfNeeded()
  }

  /** Reads entries back. What cannot be read is missing in the result. */
  async read(entries: Entry[]): Promise<Map<Entry, Buffer>> {
    const payloads = new Map<Entry, Buffer>()
    for (const [segment, group] of groupBySegment(entries)) {
      try {
        await this.#readFrom(segment, group, payloads)
      } catch (error) {
        this.#options.log.warn('cannot read a spool segment', {
          segment: segment.name,
          reason: String(error),
        })
      }
    }
    return payloads
  }

  async #readFrom(segment: Segment, entries: Entry[], payloads: Map<Entry, Buffer>): Promise<void> {
    const handle = await open(segment.path, constants.O_RDONLY | constants.O_NOFOLLOW)
    try {
      for (const entry of entries) {
        const { record } = entry
        if (record?.segment !== segment) continue // dropped or moved meanwhile
        const bytes = Buffer.allocUnsafe(record.size)
        await handle.read(bytes, 0, record.size, record.offset)
        const content = contentAt(bytes, 0)
        if (content !== undefined) payloads.set(entry, logsOf(content))
      }
    } finally {
      await handle.close()
    }
  }

  /** Writes what waits, however often that fails before `signal` aborts, and closes the segment. */
  async close(signal: AbortSignal): Promise<void> {
    while (this.#unwritten.size > 0 && !signal.aborted) {
      this.#schedule(0)
      await pause(GATHER_MS)
    }
    clearTimeout(this.#timer)
    this.#timer = undefined
    await Promise.race([this.#writing, aborted(signal)])
    await Promise.race([this.#active?.handle.close(), aborted(signal)])
    this.#active = undefined
  }

  /** Entries that only memory holds. */
  get unwritten(): Iterable<Entry> {
    return this.#unwritten
  }

  #schedule(delay: number): void {
    if (this.#timer !== undefined || this.#writing !== undefined) return
    const wait = this.#trouble.isFailing ? RETRY_MS : delay
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#writing = this.#write().finally(() => {
        this.#writing = undefined
        if (this.#unwritten.size > 0) this.#schedule(0)
      })
    }, wait)
  }

  async #write(): Promise<void> {
    do {
      const entries = this.#nextEntries()
      if (entries.length === 0) break
      this.#inWrite = new Set(entries)
      try {
        await this.#append(entries)
        this.#trouble.worked()
      } catch (error) {
        await this.#abandonActive()
        this.#trouble.failed({ reason: String(error) })
        this.#failedBytes = this.#unwrittenBytes
      } finally {
        this.#inWrite.clear()
      }
    } while (!this.#trouble.isFailing)
    if (this.#unwrittenBytes - this.#failedBytes < MAX_UNWRITTEN_BYTES / 2) this.#slow.worked()
    if (this.#active?.segment.live.size === 0) await this.#closeActive()
  }

  /** The oldest ones of the same ids, as many as one write takes. */
  #nextEntries(): Entry[] {
    const entries: Entry[] = []
    let bytes = 0
    for (const entry of this.#unwritten) {
      if (entry.payload === undefined) throw new Error('an unwritten entry has no payload')
      bytes += sizeOf(entry)
      if (
        entries.length > 0 &&
        (bytes > MAX_WRITE_BYTES || !sameIds(entry.session.ids, (entries[0] ?? entry).session.ids))
      )
        break
      entries.push(entry)
    }
    return entries
  }

  async #append(entries: Entry[]): Promise<void> {
    const [first] = entries
    if (first === undefined) return
    const records = entries.map(toRecord)
    const bytes = records.reduce((sum, { length }) => sum + length, 0)
    const { ids } = first.session
    const current = this.#active?.segment
    if (current && (!sameIds(current.ids, ids) || current.size + bytes > SEGMENT_BYTES))
      await this.#closeActive()
    this.#active ??= await this.#create(ids)
    const { segment, handle } = this.#active
    await writeAt(handle, Buffer.concat(records), segment.size)
    for (const [n, entry] of entries.entries()) {
      const size = records[n]?.length ?? 0
      const record = { segment, offset: segment.size, size }
      segment.size += size
      this.#size += size
      this.#leaveUnwritten(entry)
      if (!entry.isHeld) continue // acknowledged while it was written
      this.#detach(entry)
      this.#attach(entry, record)
      this.#options.store.written(entry)
    }
    this.#compactIfNeeded()
  }

  async #create(ids: Ids): Promise<{ segment: Segment; handle: FileHandle }> {
    const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants
    const name = `${String(this.#nextCounter++).padStart(16, '0')}.segment`
    const path = join(this.#options.directory, name)
    const handle = await open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
    const segment: Segment = { name, path, ids, size: 0, live: new Set(), liveBytes: 0 }
    try {
      await handle.chmod(0o600)
      const header = headerRecord(ids)
      await writeAt(handle, header, 0)
      segment.size = header.length
      this.#size += header.length
    } catch (error) {
      await handle.close()
      await unlink(path).catch(() => {}) // an empty one does no harm
      throw error
    }
    this.#segments.add(segment)
    return { segment, handle }
  }

  /** Ends the segment at its last good record after a failed write. */
  async #abandonActive(): Promise<void> {
    const active = this.#active
    if (!active) return
    await active.handle.truncate(active.segment.size).catch(() => {}) // reading skips half a record, too
    await this.#closeActive()
  }

  async #closeActive(): Promise<void> {
    const active = this.#active
    if (!active) return
    this.#active = undefined
    await active.handle.close().catch(() => {}) // nothing is written to it any more
    if (active.segment.live.size === 0) this.#remove(active.segment)
  }

  #attach(entry: Entry, record: SpoolRecord): void {
    entry.record = record
    record.segment.live.add(entry)
    record.segment.liveBytes += record.size
  }

  #detach(entry: Entry): void {
    const { record } = entry
    if (record === undefined) return
    entry.record = undefined
    const { segment } = record
    segment.live.delete(entry)
    segment.liveBytes -= record.size
    if (segment.live.size > 0) return
    if (segment !== this.#active?.segment) this.#remove(segment)
    else if (this.#writing === undefined) void this.#closeActive()
  }

  #remove(segment: Segment): void {
    if (!this.#segments.delete(segment)) return
    this.#size -= segment.size
    unlink(segment.path).catch((error) => {
      if (error.code !== 'ENOENT')
        this.#options.log.warn('cannot remove a spool segment', {
          segment: segment.name,
          reason: String(error),
        })
    })
  }

  #leaveUnwritten(entry: Entry): void {
    if (!this.#unwritten.delete(entry)) return
    const size = sizeOf(entry)
    this.#unwrittenBytes -= size
    this.#failedBytes = Math.max(0, this.#failedBytes - size)
  }

  #dropOldest(): void {
    for (const entry of this.#unwritten) {
      if (this.#inWrite.has(entry) || entry.isInFlight || entry.record !== undefined) continue
      this.#slow.failed({ waiting_bytes: this.#unwrittenBytes })
      this.#options.store.dropWaitingForDisk(entry)
      return
    }
  }

  /** Rewrites the emptiest segment if files take much more than what they hold. */
  #compactIfNeeded(): void {
    if (this.#compacting !== undefined || this.#trouble.isFailing) return
    const { limit, log } = this.#options
    if (this.#size <= limit + Math.max(limit / 8, 2 * SEGMENT_BYTES)) return
    let emptiest: Segment | undefined
    for (const segment of this.#segments)
      if (
        segment !== this.#active?.segment &&
        segment.liveBytes < (emptiest?.liveBytes ?? Number.POSITIVE_INFINITY)
      )
        emptiest = segment
    // Rewriting a segment that is all but full would gain nothing.
    if (emptiest === undefined || emptiest.liveBytes > emptiest.size * 0.9) return
    this.#compacting = this.#compact(emptiest)
      .catch((error) => log.warn('cannot compact the spool', { reason: String(error) }))
      .finally(() => {
        this.#compacting = undefined
        this.#compactIfNeeded()
      })
  }

  async #compact(segment: Segment): Promise<void> {
    const entries = [...segment.live]
    const payloads = await this.read(entries)
    for (const entry of entries) {
      const payload = entry.payload ?? payloads.get(entry)
      if (payload === undefined || entry.record?.segment !== segment) continue
      entry.payload ??= payload
      this.#unwritten.add(entry)
      this.#unwrittenBytes += sizeOf(entry)
      this.#failedBytes += sizeOf(entry)
    }
    this.#schedule(0)
    while (segment.live.size > 0 && this.#unwritten.size > 0 && !this.#trouble.isFailing)
      await pause(GATHER_MS)
  }
}

function groupBySegment(entries: Entry[]): Map<Segment, Entry[]> {
  const groups = new Map<Segment, Entry[]>()
  for (const entry of entries) {
    if (entry.record === undefined) continue
    const { segment } = entry.record
    groups.set(segment, [...(groups.get(segment) ?? []), entry])
  }
  return groups
}

async function readSegment(path: string): Promise<Buffer> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  try {
    const stats = await handle.stat()
    if (!stats.isFile()) throw new Error('it is no file')
    if (stats.size > 2 * SEGMENT_BYTES)
      throw new Error(`its ${stats.size} bytes are more than a forwarder writes`)
    return await handle.readFile()
  } finally {
    await handle.close()
  }
}

async function writeAt(handle: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, at, bytes.length - at, position + at)
    at += bytesWritten
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
