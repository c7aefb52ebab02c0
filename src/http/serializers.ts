// Compiles each serializer of responses once, and only when a response needs it: most routes have the same error
// responses, and Fastify would compile one for each of them, which took half of the time of a start.

import { type SerializerFactory, SerializerSelector } from '@fastify/fast-json-stringify-compiler'

/** Of each schema, `description` and `headers` do not concern the body. */
function keyOf(schema: unknown): string {
  return JSON.stringify({ ...(schema as object), description: undefined, headers: undefined })
}

const builder = SerializerSelector()

export const buildSerializer: SerializerFactory = (schemas, options) => {
  const compile = builder(schemas, options)
  type Serializer = ReturnType<typeof compile>
  const serializers = new Map<string, Serializer>()
  return (route) => {
    const key = keyOf(route.schema)
    let compiled: Serializer | undefined
    const serializer =
      serializers.get(key) ??
      ((data) => {
        compiled ??= compile(route)
        return compiled(data)
      })
    serializers.set(key, serializer)
    return serializer
  }
}
