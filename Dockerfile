# The service without the embedded PostgreSQL: it needs DATABASE_URL. It listens on all addresses, so it also needs
# credentials for both roles (AGENT_TOKENS or AGENT_JWT_KEY, and ADMIN_TOKENS), and does not start without.

FROM node:24-slim AS base
WORKDIR /app
COPY package.json package-lock.json ./

FROM base AS build
# No scripts: the compiler needs neither the patches nor the binaries that the development tools fetch.
RUN npm ci --ignore-scripts
COPY tsconfig.json tsconfig.build.json ./
COPY src ./src
RUN npm run build

FROM base AS dependencies
# Applied by the postinstall script.
COPY patches ./patches
RUN npm ci --omit=dev --omit=optional

FROM base
ENV NODE_ENV=production HOST=0.0.0.0 PORT=3000
COPY drizzle ./drizzle
COPY --from=dependencies /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
# The image's user "node", by number so that Kubernetes can tell it is not root. It may write nowhere in /app.
USER 1000:1000
EXPOSE 3000
# A replica that has lost its database is healthy all the same: starting it again would lose what it has counted.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/-/healthy`).then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
CMD ["node", "dist/server.js"]
