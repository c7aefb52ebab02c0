// The PostgreSQL server that test files share: test/run.ts starts one for all, a file that is run alone its own.

import postgres from 'postgres'
import { connectDatabase } from '../../src/database/client.js'
import { migrate } from '../../src/database/migrate.js'
import { databaseUrl, startPostgres } from './postgres.js'
import type { Scope } from './scope.js'

/** Where a test file finds the server's URL. */
export const SERVER_VARIABLE = 'BOUNDARY_USAGE_TEST_SERVER'

/** The migrated database that each test's own is cloned from. */
export const TEMPLATE = 'template_boundary_usage'

/** Starts a server with the migrated template; resolves with its URL. */
export async function startShared(scope: Scope): Promise<string> {
  const server = await startPostgres()
  scope.teardown(() => server.remove())
  const sql = postgres(server.url, { max: 1 })
  await sql`create database ${sql(TEMPLATE)}`
  await sql.end()
  const template = connectDatabase({ target: { url: databaseUrl(server.url, TEMPLATE) }, poolMax: 1 })
  await migrate(template)
  await template.close()
  return server.url
}
