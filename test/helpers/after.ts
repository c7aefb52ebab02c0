// Runs after all tests: removes the shared PostgreSQL.

import { removeServer } from './shared-server.js'

await removeServer()
