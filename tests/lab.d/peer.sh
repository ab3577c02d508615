# shellcheck shell=bash
# The other Docker in Docker of `tests/lab bench --peer` and `--rootless`.

# A stand-in where none can be pulled: dind:SUITE's engine, started in the way of docker:dind:
# three RSA keys with their certificates at every start, tini as PID 1, dockerd with containerd as
# its child, plain TCP by dockerd's own socket.
# shellcheck disable=SC2016 # the shell in the container expands it
PEER_ENTRYPOINT='#!/bin/sh
set -e
hosts="--host=${DOCKER_HOST:-unix:///var/run/docker.sock}"
if [ -n "$DOCKER_TLS_CERTDIR" ]; then
    cd "$DOCKER_TLS_CERTDIR"
    openssl req -x509 -newkey rsa:4096 -nodes -subj "/CN=CA" -days 825 -keyout ca.key -out ca.pem 2>/dev/null
    for name in server client; do
        openssl req -new -newkey rsa:4096 -nodes -subj "/CN=$name" -keyout "$name.key" -out "$name.csr" 2>/dev/null
        openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 825 -out "$name.pem" 2>/dev/null
    done
    set -- --host=tcp://0.0.0.0:2376 --tlsverify --tlscacert="$PWD/ca.pem" --tlscert="$PWD/server.pem" --tlskey="$PWD/server.key" "$@"
else
    set -- --host=tcp://0.0.0.0:2375 "$@"
fi
exec tini -- dockerd "$hosts" "$@"'

# peer_image IMAGE SUITE: has IMAGE in the engine, and its name in PEER_IMAGE.
peer_image() {
    PEER_IMAGE=$1
    if [ "$1" != stand-in ]; then
        image_there "$1" && return
        say "pulling $1"
        docker pull --quiet "$1" >/dev/null ||
            die "$1 cannot be pulled (see above): check the name, or use 'tests/lab bench --peer stand-in'"
        return
    fi
    PEER_IMAGE=dind-lab/peer:$2
    say "building $PEER_IMAGE"
    scratch
    mkdir -p "$LAB_SCRATCH/peer"
    printf '%s\n' "$PEER_ENTRYPOINT" >"$LAB_SCRATCH/peer/entrypoint"
    chmod 0755 "$LAB_SCRATCH/peer/entrypoint"
    cat >"$LAB_SCRATCH/peer/Dockerfile" <<TEXT
FROM $DIND_LAB_IMAGE
RUN apt-get update \\
    && apt-get install -y --no-install-recommends tini \\
    && rm -rf /var/lib/apt/lists/*
COPY entrypoint /usr/local/bin/peer-entrypoint
HEALTHCHECK NONE
ENTRYPOINT ["peer-entrypoint"]
TEXT
    docker_build --tag "$PEER_IMAGE" "$LAB_SCRATCH/peer"
}

# docker:dind-rootless' way with the same engine: rootlesskit from Debian with that image's defaults,
# and dockerd with its data at home.
# shellcheck disable=SC2016 # the shell in the container expands it
ROOTLESS_PEER_ENTRYPOINT='#!/bin/sh
set -e
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"
mkdir -p "$XDG_RUNTIME_DIR"
exec rootlesskit --net="${DOCKERD_ROOTLESS_ROOTLESSKIT_NET:-slirp4netns}" \
    --mtu="${DOCKERD_ROOTLESS_ROOTLESSKIT_MTU:-1500}" --disable-host-loopback --port-driver=builtin \
    --copy-up=/etc --copy-up=/run \
    dockerd --host="${DOCKER_HOST:-unix://$XDG_RUNTIME_DIR/docker.sock}" "$@"'

# rootless_peer_image SUITE: has it in the engine, and its name in ROOTLESS_PEER_IMAGE.
rootless_peer_image() {
    ROOTLESS_PEER_IMAGE=dind-lab/rootless-peer:$1
    rootless_image "$1"
    say "building $ROOTLESS_PEER_IMAGE"
    scratch
    mkdir -p "$LAB_SCRATCH/rootless-peer"
    printf '%s\n' "$ROOTLESS_PEER_ENTRYPOINT" >"$LAB_SCRATCH/rootless-peer/entrypoint"
    chmod 0755 "$LAB_SCRATCH/rootless-peer/entrypoint"
    cat >"$LAB_SCRATCH/rootless-peer/Dockerfile" <<TEXT
FROM $ROOTLESS_IMAGE
USER root
RUN apt-get update \\
    && apt-get install -y --no-install-recommends rootlesskit \\
    && rm -rf /var/lib/apt/lists/*
COPY entrypoint /usr/local/bin/peer-entrypoint
HEALTHCHECK NONE
USER rootless
ENTRYPOINT ["peer-entrypoint"]
TEXT
    docker_build --tag "$ROOTLESS_PEER_IMAGE" "$LAB_SCRATCH/rootless-peer"
}
