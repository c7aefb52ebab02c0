// /telemetry: the period in progress, snapshots, their history, and the replicas.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import { redeliver } from '../delivery/queue.js'
import { InvalidQuery, NoSink, NotFound, SnapshotInProgress } from '../http/errors.js'
import { toDate } from '../http/formats.js'
import { ref, responses } from '../http/schemas.js'
import {
  findSnapshot,
  LONGEST_MS,
  listReplicas,
  listSnapshots,
  type RecordedSnapshot,
  readUsage,
  UNITS,
  type Unit,
  type UsageBucket,
  type UsageRange,
} from './history.js'
import {
  RecordedSnapshotSchema,
  ReplicaListSchema,
  SnapshotListSchema,
  SnapshotSchema,
  UsageSchema,
} from './schemas.js'

const common = { tags: ['admin'], security: [{ admin: [] }] }

const SnapshotId = Type.Object({ id: Type.String({ format: 'uuid' }) })
const DEFAULT_DAYS = 30
const MAX_BUCKETS = 10_000

export const telemetry: FastifyPluginAsyncTypebox = async (app) => {
  app.addHook('onRequest', app.guard.admin)
  // No route here has a body, but many clients call an empty one JSON.
  app.addContentTypeParser('*', (_request, payload, done) => {
    payload.resume()
    done(null)
  })

  app.get(
    '/telemetry/snapshot',
    {
      schema: {
        ...common,
        operationId: 'previewSnapshot',
        summary: 'Preview the period in progress',
        description:
          'This replica flushes itself first; what other replicas have not flushed yet is not in it.',
        response: responses(200, ref(SnapshotSchema), 'What a snapshot would record now.', 401, 403, 503),
      },
    },
    () => app.snapshots.preview(),
  )

  app.post(
    '/telemetry/snapshot',
    {
      schema: {
        ...common,
        operationId: 'takeSnapshot',
        summary: 'Take a snapshot and begin a new period',
        description:
          'This replica flushes itself first; what other replicas have not flushed yet is in the next one.',
        response: responses(200, ref(SnapshotSchema), 'The snapshot, recorded.', 401, 403, 409, 503),
      },
    },
    async () => {
      const outcome = await app.snapshots.snapshot('manual')
      if (outcome.result !== 'taken') throw new SnapshotInProgress()
      return outcome.snapshot
    },
  )

  app.get(
    '/telemetry/snapshots',
    {
      schema: {
        ...common,
        operationId: 'listSnapshots',
        summary: 'List recorded snapshots, newest first',
        querystring: Type.Object({
          limit: Type.Integer({
            minimum: 1,
            maximum: 1000,
            default: 50,
            description: 'How many at the most.',
          }),
          before: Type.Optional(
            Type.String({
              format: 'date-time',
              description: 'Only those whose period ended before this time; `next` of the page before.',
            }),
          ),
        }),
        response: responses(200, ref(SnapshotListSchema), 'A page.', 400, 401, 403, 503),
      },
    },
    ({ query: { limit, before } }) =>
      app.database.run((db) => listSnapshots(db, limit, before === undefined ? undefined : toDate(before))),
  )

  app.get(
    '/telemetry/snapshots/:id',
    {
      schema: {
        ...common,
        operationId: 'getSnapshot',
        summary: 'Show one snapshot, and what became of its delivery',
        params: SnapshotId,
        response: responses(200, ref(RecordedSnapshotSchema), 'The snapshot.', 400, 401, 403, 404, 503),
      },
    },
    async ({ params: { id } }) => find(id),
  )

  app.post(
    '/telemetry/snapshots/:id/redeliver',
    {
      schema: {
        ...common,
        operationId: 'redeliverSnapshot',
        summary: 'Deliver a snapshot again',
        description: 'At once, whatever became of it before. Its webhook-id stays the same.',
        params: SnapshotId,
        response: responses(202, ref(RecordedSnapshotSchema), 'It is due now.', 400, 401, 403, 404, 503),
      },
    },
    async ({ params: { id } }, reply) => {
      if (!app.delivery.isOn) throw new NoSink()
      await app.database.run((db) => redeliver(db, id))
      const snapshot = await find(id)
      app.delivery.wake()
      return reply.code(202).send(snapshot)
    },
  )

  async function find(id: string): Promise<RecordedSnapshot> {
    const snapshot = await app.database.run((db) => findSnapshot(db, id))
    if (!snapshot)
      throw new NotFound('no snapshot of that id: GET /telemetry/snapshots lists those there are')
    return snapshot
  }

  app.get(
    '/telemetry/usage',
    {
      schema: {
        ...common,
        operationId: 'readUsage',
        summary: 'Usage over a range of time, in buckets of the calendar',
        description:
          'Distinct counts are merged from sketches, not summed: by=day gives daily active users, by=month ' +
          'monthly ones. Buckets are in UTC, weeks start on Monday. A snapshot counts in the bucket in which ' +
          'its period ends, also if it began in the one before. With `Accept: text/csv` the buckets come as CSV.',
        querystring: Type.Object({
          from: Type.Optional(
            Type.String({ format: 'date-time', description: `Default: ${DEFAULT_DAYS} days before \`to\`.` }),
          ),
          to: Type.Optional(Type.String({ format: 'date-time', description: 'Default: now.' })),
          by: Type.Unsafe<Unit>({ type: 'string', enum: UNITS, default: 'day' }),
        }),
        response: responses(200, ref(UsageSchema), 'Usage.', 400, 401, 403, 503),
      },
    },
    async (request, reply) => {
      const range = rangeOf(request.query)
      const usage = await app.database.run((db) => readUsage(db, range))
      reply.header('vary', 'accept')
      if (!request.headers.accept?.includes('text/csv')) return usage
      // Past the serializer of the schema: text is sent as it is.
      return reply.type('text/csv; charset=utf-8; header=present').send(toCsv(usage.buckets) as never)
    },
  )

  app.get(
    '/telemetry/replicas',
    {
      schema: {
        ...common,
        operationId: 'listReplicas',
        summary: 'List the replicas that are known',
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
  if ((to.getTime() - from.getTime()) / LONGEST_MS[query.by] > MAX_BUCKETS)
    throw new InvalidQuery(
      `querystring: over ${MAX_BUCKETS} buckets, ask for a shorter range or larger buckets`,
    )
  return { from, to, by: query.by }
}

/** RFC 4180; no value needs quotes. */
function toCsv(buckets: UsageBucket[]): string {
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
  const lines = buckets.map((bucket) => names.map((name) => text(bucket[name])).join(','))
  return [names.join(','), ...lines, ''].join('\r\n')
}
