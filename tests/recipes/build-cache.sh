#!/bin/sh
# BuildKit: builds and pushes an image, with the layers of the last push as its cache. For
# runners that begin with an empty data root.
#
#   build-cache.sh REGISTRY/app:tag [DIRECTORY]
#
# The cache goes with the image: that is the one kind that dind's own builder can write. It
# has the layers of the last stage alone; for those of all stages it takes a builder of its
# own (docker buildx create --use) and --cache-to type=registry,ref=REGISTRY/app:cache,mode=max
set -eu
image=${1:?is the name of the image, as REGISTRY/app:tag}
exec docker buildx build --cache-from "type=registry,ref=$image" --cache-to type=inline \
    --tag "$image" --push "${2:-.}"
