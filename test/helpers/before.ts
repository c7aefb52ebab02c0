// Runs before all tests: starts the shared PostgreSQL and makes the migrated template.

import postgres from 'postgres'
import { connectDatabase } from '../../src/database/client.js'
import { migrate } from '../../src/database/migrate.js'
import { databaseUrl, startPostgres } from './postgres.js'
import { publishServer, removeServer, TEMPLATE } from './shared-server.js'

await removeServer() // of a run that was cut off
const server = await startPostgres()
await publishServer(server)

const sql = postgres(server.url, { max: 1 })
await sql`create database ${sql(TEMPLATE)}`
await sql.end()

const template = connectDatabase({ target: { url: databaseUrl(server, TEMPLATE) }, poolMax: 1 })
await migrate(template)
await template.close()
