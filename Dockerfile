# The service without the embedded PostgreSQL: DATABASE_URL is required. It listens on all addresses, so it also requires
# credentials for both roles: ADMIN_TOKENS, and AGENT_TOKENS or AGENT_JWT_KEY.

FROM node:24-slim AS base
WORKDIR /app
COPY package.json package-lock.json ./

FROM base AS build
# Without install scripts: the compiler needs neither the patches nor the binaries of the development tools.
RUN npm ci --ignore-scripts
COPY tsconfig.json tsconfig.build.json ./
COPY src ./src
RUN npm run build

FROM base AS dependencies
# What applies the patches is a development tool, so it goes after it has done so.
COPY patches ./patches
RUN npm ci --ignore-scripts && npx patch-package --error-on-fail && npm prune --omit=dev --omit=optional --ignore-scripts

FROM base
ENV NODE_ENV=production HOST=:: PORT=3000
COPY drizzle ./drizzle
COPY docs/operating.md ./docs/operating.md
COPY --from=dependencies /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
# The image's user "node". It is given as a number, so that Kubernetes can verify runAsNonRoot; it cannot write to /app.
USER 1000:1000
EXPOSE 3000
# A replica without a database is healthy: a restart would lose what it has counted.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/-/healthy`).then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
CMD ["node", "dist/server.js"]
