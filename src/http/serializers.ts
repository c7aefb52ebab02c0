// Compiles each serializer of responses once: most routes have the same error responses, and Fastify would compile one for
// each of them, which took half of the time of a start.

import { type SerializerFactory, SerializerSelector } from '@fastify/fast-json-stringify-compiler'

/** Of each schema, `description` and `headers` do not concern the body. */
function keyOf(schema: unknown): string {
  return JSON.stringify({ ...(schema as object), description: undefined, headers: undefined })
}

const builder = SerializerSelector()

export const buildSerializer: SerializerFactory = (schemas, options) => {
  const compile = builder(schemas, options)
  const compiled = new Map<string, ReturnType<typeof compile>>()
  return (route) => {
    const key = keyOf(route.schema)
    const serializer = compiled.get(key) ?? compile(route)
    compiled.set(key, serializer)
    return serializer
  }
}
