// /telemetry: the period in progress, snapshots, their history, and the replicas.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import { NotFound, SnapshotInProgress } from '../errors.js'
import { findSnapshot, listReplicas, listSnapshots } from '../telemetry/history.js'
import { ReplicaListSchema, ref, responses, SnapshotListSchema, SnapshotSchema } from './schemas.js'

const common = { tags: ['admin'], security: [{ admin: [] }] }

export const telemetry: FastifyPluginAsyncTypebox = async (app) => {
  app.addHook('onRequest', app.guard.admin)

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
    () => app.telemetry.preview(),
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
      const outcome = await app.telemetry.snapshot('manual')
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
      app.database.run((db) => listSnapshots(db, limit, before === undefined ? undefined : new Date(before))),
  )

  app.get(
    '/telemetry/snapshots/:id',
    {
      schema: {
        ...common,
        operationId: 'getSnapshot',
        summary: 'Show one snapshot',
        params: Type.Object({ id: Type.String({ format: 'uuid' }) }),
        response: responses(200, ref(SnapshotSchema), 'The snapshot.', 400, 401, 403, 404, 503),
      },
    },
    async ({ params: { id } }) => {
      const snapshot = await app.database.run((db) => findSnapshot(db, id))
      if (!snapshot)
        throw new NotFound('no snapshot of that id: GET /telemetry/snapshots lists those there are')
      return snapshot
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
