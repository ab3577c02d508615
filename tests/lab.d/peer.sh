# shellcheck shell=bash
# The other Docker in Docker of `tests/lab bench --peer`.

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
