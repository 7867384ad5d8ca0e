#!/bin/sh
# Gives the engine at DOCKER_HOST the image SANDBOX_IMAGE: builds it from the context beside this script, unless it is
# there already. An image of that name that wasn't built here was brought along by the operator, and stays as it is.
set -eu

context="$(dirname "$0")/context"
# Of the warden what Dockerfile.sandbox takes, and not what somebody has built beside it
recipe="$(cd "$context" && find Dockerfile.sandbox warden/Makefile warden/src -type f -exec sha256sum {} + | sort | cat - "$0" | sha256sum | cut -d ' ' -f 1)"
recipe="$recipe-$(printf %s "$BASE_IMAGE" | sha256sum | cut -c 1-12)"

if found="$(docker image inspect --format '{{ index .Config.Labels "sandyard.recipe" }}' "$SANDBOX_IMAGE" 2> /dev/null)"; then
  if [ "$found" = "$recipe" ] || [ -z "$found" ]; then
    echo "$SANDBOX_IMAGE is there."
    exit 0
  fi
fi

echo "Building $SANDBOX_IMAGE on $BASE_IMAGE, which takes some minutes ..."
exec docker build --file "$context/Dockerfile.sandbox" --tag "$SANDBOX_IMAGE" --label "sandyard.recipe=$recipe" \
  --build-arg "BASE_IMAGE=$BASE_IMAGE" --build-arg "EXTRA_CA_CERTS=${EXTRA_CA_CERTS:-}" \
  --build-arg "PACKAGE_REGISTRY=${PACKAGE_REGISTRY:-}" "$context"
