// /telemetry: the current period, snapshots, usage over time, and replicas.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import Negotiator from 'negotiator'
import { DatabaseBusyError } from '../database/client.js'
import { ADMIN_ROUTE, restrictToAdmins } from '../http/admin.js'
import { InvalidQuery, RangeTooExpensive, SnapshotInProgress } from '../http/errors.js'
import { EARLIEST_MS, isRepresentable, parseTime } from '../http/formats.js'
import { errorResponse, oneOf, RETRY_AFTER, ref, responses } from '../http/schemas.js'
import { intervalsOf, UNITS, type Unit, type UsageRange } from './calendar.js'
import { listReplicas, listSnapshots } from './history.js'
import {
  MAX_BUCKETS,
  MAX_SNAPSHOTS,
  RecordedSnapshotSchema,
  ReplicaListSchema,
  SnapshotIdSchema,
  SnapshotListSchema,
  SnapshotPreviewSchema,
  SnapshotSchema,
  UsageSchema,
} from './schemas.js'
import { type IntervalUsage, readUsage } from './usage.js'

const JSON_TYPE = 'application/json; charset=utf-8'
const CSV_TYPE = 'text/csv; charset=utf-8; header=present'
const DAY_MS = 86_400_000
const DEFAULT_DAYS = 30
const DEFAULT_LIMIT = 50
const DEFAULT_UNIT = 'day'

export const telemetry: FastifyPluginAsyncTypebox = async (app) => {
  restrictToAdmins(app)

  app.get(
    '/telemetry/snapshot',
    {
      schema: {
        ...ADMIN_ROUTE,
        operationId: 'previewSnapshot',
        summary: 'Preview the current period',
        description:
          'All replicas flush first. Contains what they counted before `period_end`, except for those in ' +
          '`late_replicas`. Nothing is reset. Concurrent requests share a preview; a replica makes one per second.',
        response: responses(
          200,
          ref(SnapshotPreviewSchema),
          'The snapshot that would be recorded now.',
          401,
          403,
          503,
        ),
      },
    },
    () => app.snapshots.preview(),
  )

  app.post(
    '/telemetry/snapshot',
    {
      schema: {
        ...ADMIN_ROUTE,
        operationId: 'takeSnapshot',
        summary: 'Take a snapshot, which starts a new period',
        description:
          'All replicas flush first. The period contains what they counted before `period_end`, except for those in ' +
          '`late_replicas`: what they hold belongs to the next period.',
        response: {
          ...responses(200, ref(SnapshotSchema), 'The recorded snapshot.', 401, 403, 503),
          409: errorResponse(409, {
            description: 'Another snapshot is being taken. Retry after the time in Retry-After.',
            headers: RETRY_AFTER,
          }),
        },
      },
      links: { 200: linksTo('$response.body#/id') },
    },
    async (_request, reply) => {
      const outcome = await app.snapshots.take()
      if (outcome.result !== 'taken') {
        reply.header('retry-after', 1)
        throw new SnapshotInProgress()
      }
      return outcome.snapshot
    },
  )

  app.get(
    '/telemetry/snapshots',
    {
      schema: {
        ...ADMIN_ROUTE,
        operationId: 'listSnapshots',
        summary: 'List recorded snapshots, newest first',
        querystring: Type.Object({
          limit: Type.Optional(
            Type.Integer({
              minimum: 1,
              maximum: MAX_SNAPSHOTS,
              default: DEFAULT_LIMIT,
              description: 'Maximum number of snapshots.',
            }),
          ),
          before: Type.Optional(
            Type.String({
              format: 'date-time',
              description:
                'Lists snapshots whose period ended before this time: `next` of the previous page.',
            }),
          ),
        }),
        response: responses(200, ref(SnapshotListSchema), 'A page of snapshots.', 400, 401, 403, 503),
      },
      links: {
        200: {
          ...linksTo('$response.body#/snapshots/0/id'),
          nextPage: { operationId: 'listSnapshots', parameters: { before: '$response.body#/next' } },
        },
      },
    },
    ({ query: { limit = DEFAULT_LIMIT, before } }) =>
      app.database.run((db) => listSnapshots(db, limit, timeOf('before', before)), { lane: 'request' }),
  )

  app.get(
    '/telemetry/snapshots/:id',
    {
      schema: {
        ...ADMIN_ROUTE,
        operationId: 'getSnapshot',
        summary: 'Get a snapshot and the state of its delivery',
        params: SnapshotIdSchema,
        response: responses(200, ref(RecordedSnapshotSchema), 'The snapshot.', 400, 401, 403, 404, 503),
      },
    },
    ({ params: { id } }) => app.snapshots.find(id),
  )

  app.get(
    '/telemetry/usage',
    {
      schema: {
        ...ADMIN_ROUTE,
        operationId: 'readUsage',
        summary: 'Read usage over a range of time, per hour, day, week or month',
        description:
          'Distinct counts are merged from sketches, not summed: by=day gives daily active users, by=month ' +
          'monthly active users. Buckets are in UTC, weeks start on Monday. A snapshot belongs to the bucket in ' +
          'which its period ends. New users and workspaces are those in no earlier day on record: the difference of two ' +
          'estimates, so each is returned with its standard error. If `Accept` prefers text/csv, the response contains the buckets as CSV.',
        querystring: Type.Object({
          from: Type.Optional(
            Type.String({ format: 'date-time', description: `Default: ${DEFAULT_DAYS} days before \`to\`.` }),
          ),
          to: Type.Optional(Type.String({ format: 'date-time', description: 'Default: now.' })),
          by: Type.Optional(oneOf(UNITS, { default: DEFAULT_UNIT })),
        }),
        response: responses(
          200,
          {
            content: {
              'application/json': { schema: ref(UsageSchema) },
              'text/csv': { schema: Type.String() },
            },
          },
          'Usage per bucket and in total; as CSV, per bucket.',
          400,
          401,
          403,
          503,
        ),
      },
    },
    async (request, reply) => {
      const range = rangeOf(request.query)
      const usage = await app.database
        .run((db) => readUsage(db, range), { lane: 'request' })
        .catch((error: unknown) => {
          throw error instanceof DatabaseBusyError && error.isTooSlow ? new RangeTooExpensive() : error
        })
      reply.header('vary', 'accept')
      const type = new Negotiator(request.raw).mediaType([JSON_TYPE, CSV_TYPE])
      if (type !== CSV_TYPE) return usage // also if neither type is acceptable
      return reply.type(CSV_TYPE).send(toCsv(usage.buckets))
    },
  )

  app.get(
    '/telemetry/replicas',
    {
      schema: {
        ...ADMIN_ROUTE,
        operationId: 'listReplicas',
        summary: 'List registered replicas',
        response: responses(200, ref(ReplicaListSchema), 'The replicas, oldest first.', 401, 403, 503),
      },
    },
    async () => ({ replicas: await app.database.run(listReplicas, { lane: 'request' }) }),
  )
}

/** The links from a response that contains the id of a recorded snapshot. */
function linksTo(id: string) {
  return {
    snapshot: { operationId: 'getSnapshot', parameters: { id } },
    redelivery: { operationId: 'redeliverSnapshot', parameters: { id } },
  }
}

/** The time that the query parameter `name` contains. */
function timeOf(name: string, text: string | undefined): Date | undefined {
  if (text === undefined) return undefined
  const time = parseTime(text)
  if (!time)
    throw new InvalidQuery(
      `querystring/${name} must be in the years 0001 to 9999 in UTC, and a leap second at 23:59:60 UTC`,
    )
  return time
}

function rangeOf(query: { from?: string; to?: string; by?: Unit }): UsageRange {
  const to = timeOf('to', query.to) ?? new Date()
  const from =
    timeOf('from', query.from) ?? new Date(Math.max(to.getTime() - DEFAULT_DAYS * DAY_MS, EARLIEST_MS))
  if (from >= to) throw new InvalidQuery('querystring/from must be before querystring/to')
  const range = { from, to, by: query.by ?? DEFAULT_UNIT }
  const intervals = intervalsOf(range, MAX_BUCKETS + 1)
  if (intervals.length > MAX_BUCKETS)
    throw new InvalidQuery(
      `querystring: over ${MAX_BUCKETS} buckets: request a shorter range or larger buckets`,
    )
  if (!intervals.every(({ end }) => isRepresentable(end)))
    throw new InvalidQuery('querystring/to must be in a bucket that ends before the year 10000')
  return range
}

/** CSV as in RFC 4180; no value needs quotes, and null is an empty field. */
function toCsv(intervals: IntervalUsage[]): string {
  const names = [
    'start',
    'end',
    'snapshots',
    'unique_workspaces',
    'unique_users',
    'allowed_requests',
    'denied_requests',
    'duplicate_requests',
    'missing_requests',
    'recovered_requests',
    'new_workspaces',
    'new_users',
    'new_workspaces_error',
    'new_users_error',
  ] as const
  const text = (value: Date | number | null) =>
    value instanceof Date ? value.toISOString() : String(value ?? '')
  const lines = intervals.map((interval) => names.map((name) => text(interval[name])).join(','))
  return [names.join(','), ...lines, ''].join('\r\n')
}
