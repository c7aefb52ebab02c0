// Schemas of GET /telemetry/status.

import { type Static, Type } from '@sinclair/typebox'
import { oneOf } from '../http/schemas.js'

/** In the order in which the response lists them. */
export const CHECKS = [
  'database',
  'flushes',
  'replicas',
  'deliveries',
  'missing_logs',
  'late_replicas',
] as const
export type CheckName = (typeof CHECKS)[number]

export const StatusSchema = Type.Object(
  {
    ok: Type.Boolean({ description: 'Whether every check is ok.' }),
    checks: Type.Array(
      Type.Object(
        {
          name: oneOf(CHECKS),
          ok: Type.Boolean({ description: 'False if this needs attention, or could not be checked.' }),
          message: Type.String({
            description: 'One sentence with the figures.',
            examples: ['The database responded in 2 ms.'],
          }),
          runbook: Type.String({
            description: 'The section of docs/operating.md, which the service also serves under this path.',
            examples: ['docs/operating.md#check-database'],
          }),
        },
        { title: 'Check' },
      ),
      { minItems: CHECKS.length, maxItems: CHECKS.length, description: 'One check of each name.' },
    ),
  },
  { $id: 'Status', title: 'Status' },
)

export type Status = Static<typeof StatusSchema>

/** Schemas that are registered under their `$id`. */
export const STATUS_SCHEMAS = [StatusSchema]
