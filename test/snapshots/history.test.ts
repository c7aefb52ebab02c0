// Usage over ranges of snapshots: calendar buckets in UTC, distinct counts merged.

import t from 'tap'
import { intervalsOf, type Unit } from '../../src/snapshots/calendar.js'
import { readUsage } from '../../src/snapshots/usage.js'
import { testDatabase, untilBlocked } from '../helpers/database.js'
import { recordSnapshot } from '../helpers/history.js'
import { type Replica, startReplica } from '../helpers/replica.js'

const day = (date: string) => new Date(`${date}T00:00:00Z`)

t.test('a period counts in the bucket in which it ends, and at an edge in the earlier one', async (t) => {
  const { database, sql } = await testDatabase(t)
  await recordSnapshot(sql, '2026-03-01T00:00:00Z', ['a', 'b'])
  await recordSnapshot(sql, '2026-03-01T00:10:00Z', ['b', 'c'])
  await recordSnapshot(sql, '2026-03-02T00:00:00Z', ['c', 'd'])
  const usage = await database.run((db) =>
    readUsage(db, { from: day('2026-02-28'), to: day('2026-03-03'), by: 'day' }),
  )
  t.strictSame(
    usage.buckets.map(({ start, snapshots, unique_users, allowed_requests }) => [
      start.toISOString().slice(0, 10),
      snapshots,
      unique_users,
      allowed_requests,
    ]),
    [
      ['2026-02-28', 1, 2, 10],
      ['2026-03-01', 2, 3, 20],
      ['2026-03-02', 0, 0, 0],
    ],
  )
  t.hasStrict(usage.total, {
    snapshots: 3,
    unique_users: 4,
    unique_workspaces: 4,
    allowed_requests: 30,
    denied_requests: 3,
  })
})

t.test(
  'a period that ended at or before `from` is excluded, one that ended at `to` is included',
  async (t) => {
    const { database, sql } = await testDatabase(t)
    for (const time of ['10:00', '11:00', '12:00', '13:00'])
      await recordSnapshot(sql, `2026-03-01T${time}:00Z`, [time])
    const { total } = await database.run((db) =>
      readUsage(db, {
        from: new Date('2026-03-01T10:00:00Z'),
        to: new Date('2026-03-01T12:00:00Z'),
        by: 'hour',
      }),
    )
    t.hasStrict(total, { snapshots: 2, unique_users: 2 })
  },
)

t.test(
  'daily, weekly and monthly active users are merged, whatever the time zone of the session',
  async (t) => {
    const { database, sql } = await testDatabase(t, { altered: true })
    await sql`alter database ${sql((await sql`select current_database() as name`)[0]?.name)} set timezone to 'Pacific/Auckland'`
    // 30 days from Monday, 1 June 2026; each day one user of every day and one of its own.
    for (let n = 1; n <= 30; n++)
      await recordSnapshot(sql, `2026-06-${String(n).padStart(2, '0')}T12:00:00Z`, ['always', `day-${n}`])
    const range = { from: day('2026-06-01'), to: day('2026-07-01') }
    const read = async (by: Unit) => {
      const { total, buckets } = await database.run((db) => readUsage(db, { ...range, by }))
      t.ok(Math.abs(total.unique_users - 31) <= 1)
      return buckets.map((bucket) => bucket.unique_users)
    }
    t.strictSame(await read('day'), Array(30).fill(2))
    for (const [found, truth] of (await read('week')).map(
      (found, n) => [found, [8, 8, 8, 8, 3][n] ?? 0] as const,
    ))
      t.ok(Math.abs(found - truth) <= 1, `${found} of ${truth} in a week`)
    t.equal((await read('month')).length, 1)
  },
)

t.test('snapshots without sketches count with their own numbers', async (t) => {
  const { database, sql } = await testDatabase(t)
  await recordSnapshot(sql, '2026-03-01T10:00:00Z', ['a', 'b'])
  await recordSnapshot(sql, '2026-03-01T11:00:00Z', ['a', 'b'])
  await sql`update telemetry_snapshots set workspaces_sketch = null, users_sketch = null
    where period_end = '2026-03-01T10:00:00Z'`
  const { total } = await database.run((db) =>
    readUsage(db, { from: day('2026-03-01'), to: day('2026-03-02'), by: 'day' }),
  )
  t.hasStrict(total, { unique_users: 4 })
})

t.test('intervals cover the range without gaps or overlaps', async (t) => {
  const starts = (from: string, to: string, by: Unit) => {
    const intervals = intervalsOf({ from: new Date(from), to: new Date(to), by })
    for (const [n, { start }] of intervals.entries()) if (n > 0) t.strictSame(start, intervals[n - 1]?.end)
    return intervals.map(({ start }) => start.toISOString().slice(0, 13))
  }
  t.strictSame(starts('2027-12-15T08:30:00Z', '2028-03-01T00:00:00Z', 'month'), [
    '2027-12-01T00',
    '2028-01-01T00',
    '2028-02-01T00',
  ])
  // 29 December 2026 is a Tuesday.
  t.strictSame(starts('2026-12-29T00:00:00Z', '2027-01-05T00:00:00Z', 'week'), [
    '2026-12-28T00',
    '2027-01-04T00',
  ])
  t.strictSame(starts('2026-12-31T23:59:59Z', '2027-01-01T00:00:01Z', 'hour'), [
    '2026-12-31T23',
    '2027-01-01T00',
  ])
  t.strictSame(starts('1969-12-30T12:00:00Z', '1970-01-01T00:00:00Z', 'day'), [
    '1969-12-30T00',
    '1969-12-31T00',
  ])
})

t.test('the route answers JSON or CSV, with defaults, and says what is wrong with a query', async (t) => {
  const { url, sql } = await testDatabase(t)
  const replica: Replica = await startReplica(t, url)
  await recordSnapshot(sql, '2026-03-01T10:00:00Z', ['a', 'b'])
  await sql`update telemetry_snapshots set duplicate_requests = 3, missing_requests = 2, recovered_requests = 4`
  const query = 'from=2026-03-01T00:00:00Z&to=2026-03-03T00:00:00Z'
  const answer = await replica.get(`/telemetry/usage?${query}`)
  const counts = {
    snapshots: 1,
    unique_workspaces: 2,
    unique_users: 2,
    new_workspaces: 2,
    new_users: 2,
    new_workspaces_error: 0,
    new_users_error: 0,
    allowed_requests: 10,
    denied_requests: 1,
    duplicate_requests: 3,
    missing_requests: 2,
    recovered_requests: 4,
  }
  const none = {
    snapshots: 0,
    unique_workspaces: 0,
    unique_users: 0,
    new_workspaces: 0,
    new_users: 0,
    new_workspaces_error: 0,
    new_users_error: 0,
    allowed_requests: 0,
    denied_requests: 0,
    duplicate_requests: 0,
    missing_requests: 0,
    recovered_requests: 0,
  }
  t.strictSame(await answer.json(), {
    from: '2026-03-01T00:00:00.000Z',
    to: '2026-03-03T00:00:00.000Z',
    by: 'day',
    total: counts,
    buckets: [
      { start: '2026-03-01T00:00:00.000Z', end: '2026-03-02T00:00:00.000Z', ...counts },
      { start: '2026-03-02T00:00:00.000Z', end: '2026-03-03T00:00:00.000Z', ...none },
    ],
  })

  const csv = await replica.get(`/telemetry/usage?${query}`, { accept: 'text/csv' })
  t.match(csv.headers.get('content-type'), /^text\/csv/)
  t.equal(
    await csv.text(),
    [
      'start,end,snapshots,unique_workspaces,unique_users,allowed_requests,denied_requests,' +
        'duplicate_requests,missing_requests,recovered_requests,' +
        'new_workspaces,new_users,new_workspaces_error,new_users_error',
      '2026-03-01T00:00:00.000Z,2026-03-02T00:00:00.000Z,1,2,2,10,1,3,2,4,2,2,0,0',
      '2026-03-02T00:00:00.000Z,2026-03-03T00:00:00.000Z,0,0,0,0,0,0,0,0,0,0,0,0',
      '',
    ].join('\r\n'),
  )

  const hourly = await replica.get(
    '/telemetry/usage?by=hour&from=2026-03-01T09:00:00Z&to=2026-03-01T10:00:00Z',
    { accept: 'text/csv' },
  )
  t.equal(
    (await hourly.text()).split('\r\n')[1],
    '2026-03-01T09:00:00.000Z,2026-03-01T10:00:00.000Z,1,2,2,10,1,3,2,4,,,,',
    'by hour, new ids are not reported',
  )

  const defaults = (await (await replica.get('/telemetry/usage')).json()) as {
    from: string
    to: string
    by: string
  }
  t.equal(defaults.by, 'day')
  t.equal(Date.parse(defaults.to) - Date.parse(defaults.from), 30 * 86_400_000)

  for (const [bad, message] of [
    ['from=2026-03-03T00:00:00Z&to=2026-03-01T00:00:00Z', /from must be before/],
    ['from=march', /from must match format "date-time"/],
    ['by=year', /by must be one of hour, day, week, month/],
    ['by=hour&from=0001-01-01T00:00:00Z', /over 10000 buckets/],
    ['by=month&from=1166-01-31T00:00:00Z&to=2000-01-01T00:00:00Z', /over 10000 buckets/],
  ] as const) {
    const response = await replica.get(`/telemetry/usage?${bad}`)
    t.equal(response.status, 400, bad)
    t.match(await response.json(), { message })
  }
})

t.test('CSV is returned if the client prefers it: by weight, in any case, with its parameters', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  for (const [accept, type] of [
    ['text/csv', 'text/csv'],
    ['Text/CSV', 'text/csv'],
    ['text/csv; charset=utf-8', 'text/csv'],
    ['text/csv;header=present', 'text/csv'],
    ['text/*', 'text/csv'],
    ['application/json;q=0.5, text/csv', 'text/csv'],
    ['text/csv;q=0.5, application/json', 'application/json'],
    ['text/csv;q=0', 'application/json'],
    ['text/csv;q=0, */*', 'application/json'],
    ['text/csvx', 'application/json'],
    ['*/*', 'application/json'],
    ['text/html, */*;q=0.8', 'application/json'],
    ['image/png', 'application/json'],
    ['', 'application/json'],
  ] as const) {
    const response = await replica.get('/telemetry/usage', { accept })
    t.equal(response.headers.get('content-type')?.split(';')[0], type, accept)
    t.equal(response.headers.get('vary'), 'accept')
    await response.text()
  }
})

t.test('times at the edges of the calendar are answered with RFC 3339 times, or 400', async (t) => {
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  const usage = async (query: string) => {
    const response = await replica.get(`/telemetry/usage?${query}`)
    const { from, to, buckets, code } = (await response.json()) as {
      from: string
      to: string
      buckets: { start: string; end: string }[]
      code: string
    }
    if (response.status !== 200) return `${response.status} ${code}`
    return `${from} ${to}: ${buckets.length} from ${buckets[0]?.start} to ${buckets.at(-1)?.end}`
  }
  for (const [query, expected] of [
    [
      'to=0001-01-03T00:00:00Z',
      '0001-01-01T00:00:00.000Z 0001-01-03T00:00:00.000Z: 2 from 0001-01-01T00:00:00.000Z to 0001-01-03T00:00:00.000Z',
    ],
    [
      'by=month&from=0098-12-05T00:00:00Z&to=0099-01-05T00:00:00Z',
      '0098-12-05T00:00:00.000Z 0099-01-05T00:00:00.000Z: 2 from 0098-12-01T00:00:00.000Z to 0099-02-01T00:00:00.000Z',
    ],
    [
      'by=week&to=0001-01-01T00:00:00.001Z',
      '0001-01-01T00:00:00.000Z 0001-01-01T00:00:00.001Z: 1 from 0001-01-01T00:00:00.000Z to 0001-01-08T00:00:00.000Z',
    ],
    [
      'to=9999-12-31T00:00:00Z&from=9999-12-30T00:00:00Z',
      '9999-12-30T00:00:00.000Z 9999-12-31T00:00:00.000Z: 1 from 9999-12-30T00:00:00.000Z to 9999-12-31T00:00:00.000Z',
    ],
    [
      'from=2016-12-31T23:59:60.5Z&to=2017-01-02T00:59:60%2B01:00',
      '2017-01-01T00:00:00.000Z 2017-01-02T00:00:00.000Z: 1 from 2017-01-01T00:00:00.000Z to 2017-01-02T00:00:00.000Z',
    ],
    ['to=9999-12-31T00:00:00.001Z', '400 INVALID_QUERY'],
    ['by=month&to=9999-12-31T23:59:59Z', '400 INVALID_QUERY'],
    ['to=9999-12-31T23:59:60Z', '400 INVALID_QUERY'],
    ['to=9999-12-31T23:30:00-01:00', '400 INVALID_QUERY'],
    ['to=0000-12-31T23:59:59Z', '400 INVALID_QUERY'],
    ['to=0001-01-01T00:00:00Z', '400 INVALID_QUERY'],
    ['from=0001-01-01T00:00:00%2B01:00', '400 INVALID_QUERY'],
    ['to=2016-12-31T12:00:60Z', '400 INVALID_QUERY'],
    ['to=2016-12-31T23:59:60%2B01:00', '400 INVALID_QUERY'],
    ['to=2023-02-29T00:00:00Z', '400 FST_ERR_VALIDATION'],
  ] as const)
    t.equal(await usage(query), expected, query)

  for (const [before, status] of [
    ['0001-01-01T00:00:00Z', 200],
    ['9999-12-31T23:59:59.999Z', 200],
    ['2016-12-31T23:59:60Z', 200],
    ['0000-01-01T00:00:00Z', 400],
    ['0001-01-01T00:00:00%2B00:01', 400],
    ['9999-12-31T23:59:59-00:01', 400],
    ['9999-12-31T23:59:60Z', 400],
  ] as const)
    t.equal((await replica.get(`/telemetry/snapshots?before=${before}`)).status, status, before)
})

t.test(
  'a range that takes too long to read is 400 and says so, and the database is not declared lost',
  async (t) => {
    const { url, sql } = await testDatabase(t)
    const replica = await startReplica(t, url)
    await sql.begin(async (tx) => {
      // A statement that waits is canceled as statement_timeout would cancel it.
      await tx`lock table telemetry_snapshots`
      const answer = replica.get('/telemetry/usage')
      await untilBlocked(sql)
      await sql`select pg_cancel_backend(pid) from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`
      const response = await answer
      t.equal(response.status, 400)
      t.match(await response.json(), { code: 'RANGE_TOO_EXPENSIVE', message: /request a shorter range/ })
    })
    t.equal(replica.app.database.up, true)
    t.equal((await replica.get('/telemetry/usage')).status, 200)
  },
)

t.test(
  'a statement that the database cancels is 503 DATABASE_BUSY, and the database is not declared lost',
  async (t) => {
    const { url, sql } = await testDatabase(t)
    const replica = await startReplica(t, url)
    await sql.begin(async (tx) => {
      await tx`lock table telemetry_snapshots`
      const answer = replica.get('/telemetry/snapshots')
      await untilBlocked(sql)
      await sql`select pg_cancel_backend(pid) from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`
      const response = await answer
      t.equal(response.status, 503)
      t.equal(response.headers.get('retry-after'), '1')
      t.match(await response.json(), {
        code: 'DATABASE_BUSY',
        message: /canceled the statement: retry later/,
      })
    })
    t.equal(replica.app.database.up, true)
  },
)
