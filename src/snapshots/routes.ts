// /telemetry: the current period, snapshots, usage over time, and replicas.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import { ADMIN_ROUTE, restrictToAdmins } from '../http/admin.js'
import { InvalidQuery, SnapshotInProgress } from '../http/errors.js'
import { toDate } from '../http/formats.js'
import { oneOf, ref, responses } from '../http/schemas.js'
import {
  type IntervalUsage,
  LONGEST_INTERVAL_MS,
  listReplicas,
  listSnapshots,
  readUsage,
  UNITS,
  type Unit,
  type UsageRange,
} from './history.js'
import {
  RecordedSnapshotSchema,
  ReplicaListSchema,
  SnapshotIdSchema,
  SnapshotListSchema,
  SnapshotSchema,
  UsageSchema,
} from './schemas.js'

const DEFAULT_DAYS = 30
const MAX_INTERVALS = 10_000

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
          'This replica flushes first. Excludes usage that other replicas have not flushed yet. Nothing is reset.',
        response: responses(
          200,
          ref(SnapshotSchema),
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
          'This replica flushes first. Usage that other replicas have not flushed yet belongs to the next period.',
        response: responses(200, ref(SnapshotSchema), 'The recorded snapshot.', 401, 403, 409, 503),
      },
    },
    async () => {
      const outcome = await app.snapshots.take('manual')
      if (outcome.result !== 'taken') throw new SnapshotInProgress()
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
          limit: Type.Integer({
            minimum: 1,
            maximum: 1000,
            default: 50,
            description: 'Maximum number of snapshots.',
          }),
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
    },
    ({ query: { limit, before } }) =>
      app.database.run((db) => listSnapshots(db, limit, before === undefined ? undefined : toDate(before))),
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
          'which its period ends. With `Accept: text/csv`, the response contains the buckets as CSV.',
        querystring: Type.Object({
          from: Type.Optional(
            Type.String({ format: 'date-time', description: `Default: ${DEFAULT_DAYS} days before \`to\`.` }),
          ),
          to: Type.Optional(Type.String({ format: 'date-time', description: 'Default: now.' })),
          by: oneOf(UNITS, { default: 'day' }),
        }),
        response: responses(200, ref(UsageSchema), 'Usage per bucket and in total.', 400, 401, 403, 503),
      },
    },
    async (request, reply) => {
      const range = rangeOf(request.query)
      const usage = await app.database.run((db) => readUsage(db, range))
      reply.header('vary', 'accept')
      if (!request.headers.accept?.includes('text/csv')) return usage
      // The schema describes the JSON; a string bypasses its serializer.
      return reply.type('text/csv; charset=utf-8; header=present').send(toCsv(usage.buckets) as never)
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
    async () => ({ replicas: await app.database.run(listReplicas) }),
  )
}

function rangeOf(query: { from?: string; to?: string; by: Unit }): UsageRange {
  const to = query.to === undefined ? new Date() : toDate(query.to)
  const from =
    query.from === undefined ? new Date(to.getTime() - DEFAULT_DAYS * 86_400_000) : toDate(query.from)
  if (from >= to) throw new InvalidQuery('querystring/from must be before querystring/to')
  if ((to.getTime() - from.getTime()) / LONGEST_INTERVAL_MS[query.by] > MAX_INTERVALS)
    throw new InvalidQuery(
      `querystring: over ${MAX_INTERVALS} buckets: request a shorter range or larger buckets`,
    )
  return { from, to, by: query.by }
}

/** CSV as in RFC 4180; no value needs quotes. */
function toCsv(intervals: IntervalUsage[]): string {
  const names = [
    'start',
    'end',
    'snapshots',
    'unique_workspaces',
    'unique_users',
    'allowed_requests',
    'denied_requests',
  ] as const
  const text = (value: Date | number) => (value instanceof Date ? value.toISOString() : String(value))
  const lines = intervals.map((interval) => names.map((name) => text(interval[name])).join(','))
  return [names.join(','), ...lines, ''].join('\r\n')
}
