// buildApp(): registers every plugin and route of the service, in reading order.

import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Config } from './config.js'
import counting from './counting/plugin.js'
import database from './database/plugin.js'
import delivery from './delivery/plugin.js'
import { redelivery } from './delivery/routes.js'
import auth from './http/auth.js'
import connections from './http/connections.js'
import { docs } from './http/docs.js'
import errors, { respond, respondToInvalidHttp } from './http/error-handler.js'
import { addFormats } from './http/formats.js'
import { health } from './http/health.js'
import host from './http/host.js'
import methods from './http/methods.js'
import metrics from './http/metrics.js'
import openapi from './http/openapi.js'
import readiness from './http/readiness.js'
import { HTTP_SCHEMAS } from './http/schemas.js'
import { buildSerializer } from './http/serializers.js'
import shutdown from './http/shutdown.js'
import { boundaryLogs } from './ingest/routes.js'
import { INGEST_SCHEMAS } from './ingest/schemas.js'
import { createLog, requestLogging, stdoutLog } from './log.js'
import type { Output } from './output.js'
import { page } from './page/routes.js'
import reporting from './reporting/plugin.js'
import snapshots from './snapshots/plugin.js'
import { telemetry } from './snapshots/routes.js'
import { SNAPSHOT_SCHEMAS } from './snapshots/schemas.js'
import { status } from './status/routes.js'
import { STATUS_SCHEMAS } from './status/schemas.js'
import { TIMING, type Timing } from './timing.js'

const HEADERS_TIMEOUT_MS = 10_000
const KEEP_ALIVE_TIMEOUT_MS = 72_000 // longer than the usual idle timeout of load balancers, 60 s
const MAX_HEADER_BYTES = 16_384
/** Creating the data directory of the embedded PostgreSQL takes tens of seconds on a slow machine. */
const PLUGIN_TIMEOUT_MS = 120_000

export interface AppOptions {
  /** Where the log goes; stdout by default. */
  output?: Output
  /** Shorter delays and deadlines, for tests. */
  timing?: Partial<Timing>
}

/** Builds the service without listening. */
export async function buildApp(config: Config, options: AppOptions = {}): Promise<FastifyInstance> {
  const timing = { ...TIMING, ...options.timing }
  const log = createLog(config.LOG_LEVEL, options.output ?? (await stdoutLog(false)))
  const app = Fastify({
    ...requestLogging(log),
    // Compiling the schema of schemas takes long, and a test validates the OpenAPI document with all of them.
    ajv: { onCreate: addFormats, customOptions: { validateSchema: false } },
    schemaController: { compilersFactory: { buildSerializer } },
    // The last address: the proxy has added it, and what comes before it is the client's own word.
    trustProxy: config.TRUST_PROXY && ((_address: string, hop: number) => hop === 0),
    bodyLimit: config.BODY_LIMIT_BYTES,
    requestTimeout: config.REQUEST_TIMEOUT_MS,
    connectionTimeout: Math.max(timing.silentConnectionMs, config.REQUEST_TIMEOUT_MS),
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    forceCloseConnections: 'idle',
    pluginTimeout: PLUGIN_TIMEOUT_MS,
    frameworkErrors: respond,
    clientErrorHandler: respondToInvalidHttp,
    routerOptions: { maxParamLength: MAX_HEADER_BYTES }, // the schema of a parameter limits it
    return503OnClosing: false, // the shutdown plugin responds with Retry-After
    http: {
      headersTimeout: Math.min(HEADERS_TIMEOUT_MS, config.REQUEST_TIMEOUT_MS),
      connectionsCheckingInterval: Math.min(1_000, config.REQUEST_TIMEOUT_MS / 2),
      maxHeaderSize: MAX_HEADER_BYTES,
      requireHostHeader: false, // host.ts responds in the shape of all errors
    },
  }).withTypeProvider<TypeBoxTypeProvider>()
  app.log = log
  // Fastify's own parsers would read bodies on every route; only routes that take a body add a parser.
  app.removeAllContentTypeParsers()

  const schemas = [...HTTP_SCHEMAS, ...INGEST_SCHEMAS, ...SNAPSHOT_SCHEMAS, ...STATUS_SCHEMAS]
  for (const schema of schemas) app.addSchema(schema)

  await app.register(errors)
  await app.register(methods, { maxParamLength: MAX_HEADER_BYTES })
  await app.register(metrics)
  await app.register(connections)
  await app.register(host, { config })
  await app.register(shutdown, { config })
  await app.register(auth, { config })
  await app.register(database, { config, timing })
  await app.register(counting, { config, timing })
  await app.register(reporting, { config, timing })
  await app.register(readiness)
  await app.register(snapshots, { config, timing })
  await app.register(delivery, { config })

  await app.register(openapi)
  await app.register(boundaryLogs, { config, timing })
  await app.register(telemetry)
  await app.register(redelivery)
  await app.register(status, { config })
  await app.register(health)
  await app.register(docs)
  await app.register(page)
  app.rejectOtherMethods()

  return app
}
