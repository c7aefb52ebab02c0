// Whether this replica should receive traffic.

import fp from 'fastify-plugin'

declare module 'fastify' {
  interface FastifyInstance {
    readiness: {
      /** Why this replica is not ready; empty if it is. */
      reasons(): string[]
    }
  }
}

export default fp(
  async (app) => {
    const { metrics, database, counting, reporting, shutdown } = app
    app.decorate('readiness', {
      reasons() {
        const reasons: string[] = []
        if (!database.isPrepared) reasons.push('the database schema is not in place yet')
        else if (!reporting.clock.isKnown) reasons.push('this replica is not registered yet')
        if (shutdown.isComing) reasons.push('this replica is about to shut down')
        if (counting.unready) reasons.push(counting.unready)
        return reasons
      },
    })
    metrics.gauge('boundary_usage_ready', 'Whether this replica is ready, as reported by /-/ready.', () =>
      app.readiness.reasons().length === 0 ? 1 : 0,
    )
  },
  { name: 'readiness', dependencies: ['metrics', 'shutdown', 'database', 'counting', 'reporting'] },
)
