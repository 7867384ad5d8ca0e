# The REST service. Builds with the classic builder and with BuildKit, on any image that has Node.js 20.19 or newer:
#   docker build --tag sandyard --build-arg BASE_IMAGE=node:24-bookworm-slim .
ARG BASE_IMAGE=node:22-bookworm-slim

FROM ${BASE_IMAGE} AS packages
# Certificates to trust while fetching, as base64 of a PEM bundle. Needed only behind a proxy that opens TLS.
ARG EXTRA_CA_CERTS=
# Where packages come from, when it is not npm's own registry.
ARG PACKAGE_REGISTRY=
USER root
WORKDIR /app
COPY package.json package-lock.json ./
# No package needs its install script, and some would compile native code that is never used.
RUN set -eu; \
    if [ -n "${EXTRA_CA_CERTS}" ]; then \
      printf %s "${EXTRA_CA_CERTS}" | base64 -d > /tmp/extra-ca.pem; \
      export NODE_EXTRA_CA_CERTS=/tmp/extra-ca.pem; \
    fi; \
    if [ -n "${PACKAGE_REGISTRY}" ]; then export NPM_CONFIG_REGISTRY="${PACKAGE_REGISTRY}"; fi; \
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --cache /tmp/npm; \
    rm -rf /tmp/npm /tmp/extra-ca.pem

# Runs from the sources and starts anew when one changes: docker-compose.dev.yml mounts them over these.
FROM packages AS development
LABEL org.opencontainers.image.title="Sandyard development" \
      sandyard.image="service-development"
COPY tsconfig.json ./
COPY src src
ENV HOST=0.0.0.0 PORT=8888
EXPOSE 8888
USER 1000:1000
ENTRYPOINT ["node"]
CMD ["node_modules/tsx/dist/cli.mjs", "watch", "--clear-screen=false", "src/http/main.ts"]

FROM packages AS build
LABEL sandyard.image="service-build"
COPY tsconfig.json tsconfig.build.json ./
COPY scripts scripts
COPY src src
RUN npm run build \
 && find dist -name '*.map' -delete \
 && mkdir state

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Sandyard" \
      org.opencontainers.image.description="REST service that gives agents disposable sandboxes on a Docker engine" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT" \
      sandyard.image="service"
WORKDIR /app
# The programs have in them what they need of packages, so none are installed.
COPY --from=build /app/dist dist
COPY package.json LICENSE ./
# For SANDBOX_STATE_DIR: a volume that is mounted here belongs to the same user.
COPY --from=build --chown=1000:1000 /app/state /var/lib/sandyard
# A container's own loopback can't be reached from outside it; so the service needs SANDBOX_TOKEN or SANDBOX_TOKEN_FILE.
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8888
EXPOSE 8888
# By number, so that no base image has to have the user; it is the one called node in Node's own images.
USER 1000:1000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/healthz`).then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node"]
CMD ["dist/http/main.js"]
