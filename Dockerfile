# The server alone: the database belongs beside a container, not in it (see compose.yaml), so the embedded PostgreSQL is
# left out and DATABASE_URL must be given.
# The base needs Node 20, 22 or 24 and glibc 2.38 or later (2.27 with Node 20), not musl.
ARG BASE=node:24-trixie-slim

# Builds on the machine's own architecture for any other: nothing is compiled, the binaries of all of them are in the packages.
FROM --platform=$BUILDPLATFORM ${BASE} AS build
ARG TARGETARCH
# The package of uWebSockets.js: empty for the one in package.json, or the URL of another, such as upstream's (SECURITY.md).
ARG UWS=
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Scripts run after the sources are there; the packages' own are not needed, their binaries ship inside them.
RUN npm ci --ignore-scripts --omit=optional
COPY . .
RUN npm run -s build:product && npm prune --ignore-scripts --omit=dev --omit=optional \
  && if [ -n "${UWS}" ]; then npm install --ignore-scripts --omit=dev --omit=optional "uWebSockets.js@${UWS}"; fi \
  && rm -rf node_modules/.cache \
  # Binaries of other systems, and of Node versions that are not in this image.
  && abi="$(node -p process.versions.modules)" arch="$(echo "${TARGETARCH:-$(node -p process.arch)}" | sed s/amd64/x64/)" \
  && find node_modules/uWebSockets.js node_modules/uWebSockets.js-glibc-2.27 -name '*.node' \
    ! -name "uws_linux_${arch}_${abi}.node" -delete \
  && rm -rf node_modules/uWebSockets.js-glibc-2.27/docs node_modules/uWebSockets.js-glibc-2.27/dist

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=https://github.com/summing-counters/summing-counters
LABEL org.opencontainers.image.title="summing-counters" \
  org.opencontainers.image.description="Counts increments at very high rates and keeps exact sums in PostgreSQL" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}" \
  org.opencontainers.image.source="${SOURCE}"
ENV NODE_ENV=production HOST=0.0.0.0 DATA_DIR=/data
WORKDIR /app
COPY --from=build /app/package.json /app/LICENSE ./
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
# A user without privileges; numbers, so that an orchestrator can see that it is not root.
RUN mkdir /data && chown 10001:10001 /data
USER 10001:10001
VOLUME /data
EXPOSE 3333
STOPSIGNAL SIGTERM
# Over loopback, whatever the certificate is called.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["node", "-e", "\
  const { PORT, TLS_CERT_FILE } = process.env; \
  const { get } = require(TLS_CERT_FILE ? 'node:https' : 'node:http'); \
  get({ host: '127.0.0.1', port: PORT || 3333, path: '/healthz', rejectUnauthorized: false }, (answer) => \
    process.exit(answer.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))"]
# Node is process 1, so that it gets the signals and its exit code is the container's.
CMD ["node", "dist/main.js"]
