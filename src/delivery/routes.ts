// POST /telemetry/snapshots/:id/redeliver.

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { ADMIN_ROUTE, restrictToAdmins } from '../http/admin.js'
import { NoSink } from '../http/errors.js'
import { errorResponse, ref, responses } from '../http/schemas.js'
import { RecordedSnapshotSchema, SnapshotIdSchema } from '../snapshots/schemas.js'

export const redelivery: FastifyPluginAsyncTypebox = async (app) => {
  restrictToAdmins(app)

  app.post(
    '/telemetry/snapshots/:id/redeliver',
    {
      schema: {
        ...ADMIN_ROUTE,
        operationId: 'redeliverSnapshot',
        summary: 'Deliver a snapshot again',
        description:
          'Makes the snapshot due at once, whatever the state of its delivery. Its webhook-id stays the same.',
        params: SnapshotIdSchema,
        response: {
          ...responses(202, ref(RecordedSnapshotSchema), 'The snapshot is due.', 400, 401, 403, 404, 503),
          409: errorResponse(409, { description: 'NO_SINK: snapshots are not delivered.' }),
        },
      },
    },
    async ({ params: { id } }, reply) => {
      if (!app.delivery.isOn) throw new NoSink()
      return reply.code(202).send(await app.delivery.redeliver(id))
    },
  )
}
