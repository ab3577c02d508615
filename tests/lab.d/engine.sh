# shellcheck shell=bash
# The engine: which one it is, how the embedded one starts, and how it goes.
#
# The embedded one is dockerd out of a Debian root filesystem, in mount and pid
# namespaces of its own. Its mounts and processes, however deep the containers
# nest, end with its PID 1; what it shares with the host are the network
# (network.sh), the cgroups (cgroup.sh), and $LAB_RUN, where its socket is.

ENGINE_SUITE=trixie
# tini reaps the shims that outlive dockerd's children; nftables takes away the
# tables that iptables-nft leaves; fuse-overlayfs is for a cache on an overlay.
ENGINE_PACKAGES=(
    ca-certificates docker-buildx docker-cli docker.io fuse-overlayfs git
    iproute2 iptables kmod nftables pigz procps tini xz-utils
)
ENGINE_READY_SECONDS=60
ENGINE_STOP_SECONDS=25

# The root filesystem is the last engine's until all of that is cleared away,
# whoever's cache it is in.
if [ -e "$LAB_RUN/rootfs" ]; then
    LAB_ROOTFS=$(<"$LAB_RUN/rootfs")
else
    LAB_ROOTFS=$LAB_CACHE/engine/rootfs
fi

# Unshare's parent process holds a lock on $LAB_RUN/alive for as long as anything
# in the engine's pid namespace lives: no pid to mistake, an event to wait for.
engine_alive() {
    [ -e "$LAB_RUN/alive" ] && ! flock -n "$LAB_RUN/alive" true
}

engine_ended() { flock -w "$1" "$LAB_RUN/alive" true; }

engine_rootfs() {
    local recipe
    # An older recipe's must do for as long as an engine runs on it.
    ! engine_alive || return 0
    LAB_ROOTFS=$LAB_CACHE/engine/rootfs
    recipe="$ENGINE_SUITE ${ENGINE_PACKAGES[*]}"
    [ "$(cat "$LAB_ROOTFS.recipe" 2>/dev/null)" != "$recipe" ] || return 0
    say "making the engine's root filesystem from Debian $ENGINE_SUITE in $LAB_ROOTFS (500 MB, about a minute, once)"
    rm -rf --one-file-system "$LAB_ROOTFS" "$LAB_ROOTFS.recipe"
    debian_bootstrap "$ENGINE_SUITE" "$LAB_ROOTFS" --include="$(tr ' ' , <<<"${ENGINE_PACKAGES[*]}")"
    echo "$recipe" >"$LAB_ROOTFS.recipe"
}

# A `docker` (and `docker-buildx`, for BuildKit) in PATH: the machine's own, else
# the root filesystem's by way of its own loader, for its libc is newer than many.
engine_cli() {
    local bin=$LAB_CACHE/bin name loader libraries
    case :$PATH: in
    *":$bin:"*) ;;
    *) PATH=$PATH:$bin ;;
    esac
    export PATH
    if docker --version >/dev/null 2>&1 && { command -v docker-buildx >/dev/null || [ ! -x "$LAB_ROOTFS/usr/bin/docker" ]; }; then
        return
    fi
    engine_rootfs
    mkdir -p "$bin"
    loader=$(compgen -G "$LAB_ROOTFS/lib*/ld-linux*.so.*" | head -n 1)
    libraries=$(compgen -G "$LAB_ROOTFS/usr/lib/*-linux-gnu*" | head -n 1)
    for name in bin/docker libexec/docker/cli-plugins/docker-buildx; do
        printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' \
            "$loader" "$libraries" "$LAB_ROOTFS/usr/$name" >"$bin/${name##*/}.part"
        chmod +x "$bin/${name##*/}.part"
        mv "$bin/${name##*/}.part" "$bin/${name##*/}"
    done
}

# Runs in the new namespaces, as their PID 1, until dockerd takes over.
engine_inside() {
    local rootfs=$1 data=$2 net=$3 mtu=$4 backend=$5 pid path name
    # /proc is still the host's, and shows the pid that `down` needs.
    read -r pid _ </proc/self/stat
    echo "$pid" >"$LAB_RUN/pid"

    mount --bind "$rootfs" "$rootfs"
    cd "$rootfs" || exit
    mount -t proc proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mount -t tmpfs -o mode=0755 tmpfs run
    # The socket is for all; the rest is so that `docker run --volume` finds what
    # people and tests are likely to name.
    for path in "$LAB_RUN" /tmp "$LAB_TOP" "$LAB_CACHE"; do
        mkdir -p ".$path"
        mount --bind "$path" ".$path"
    done
    mkdir -p var/lib/docker
    mount --bind "$data" var/lib/docker
    # dockerd looks past a resolver on the loopback to systemd-resolved's own list.
    cat /etc/resolv.conf >etc/resolv.conf
    if [ -e /run/systemd/resolve/resolv.conf ]; then
        mkdir -p run/systemd/resolve
        cat /run/systemd/resolve/resolv.conf >run/systemd/resolve/resolv.conf
    fi
    if [ "$backend" = legacy ]; then
        ln -sf /usr/sbin/iptables-legacy usr/local/sbin/iptables
        ln -sf /usr/sbin/ip6tables-legacy usr/local/sbin/ip6tables
    else
        rm -f usr/local/sbin/iptables usr/local/sbin/ip6tables
    fi
    # With chroot in its place, privileged containers see the host's mounts.
    pivot_root . mnt
    umount -l /mnt
    # Volumes with shared propagation need a shared root, as systemd makes it.
    mount --make-rshared /

    local -a environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin)
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [ -z "${!name-}" ] || environment+=("$name=${!name}")
    done
    exec env -i "${environment[@]}" tini -- dockerd \
        --host "unix://$LAB_SOCKET" --group root \
        --bridge "$LAB_BRIDGE" --mtu "$mtu" \
        --default-address-pool "base=$net.128.0/17,size=24" \
        --cgroup-parent "/$LAB_CGROUP" --exec-opt native.cgroupdriver=cgroupfs
}

engine_start() {
    local data=$LAB_CACHE/engine/data net backend mtu
    engine_rootfs
    need_tool ip iproute2
    mkdir -p "$LAB_RUN" "$data"
    echo "$LAB_ROOTFS" >"$LAB_RUN/rootfs"
    network_up
    net=$(<"$LAB_NET/net")
    backend=$(<"$LAB_NET/backend")
    mtu=$(network_mtu)

    say "starting dockerd (log: $LAB_RUN/log)"
    : >"$LAB_RUN/log"
    (
        exec 3>"$LAB_RUN/alive"
        flock -n 3
        echo "$BASHPID" >&3
        drop_descriptors 3
        exec setsid unshare --mount --pid --fork --kill-child --propagation private \
            bash -c 'exec 3>&-; exec "$@"' _ \
            "$LAB_SELF" _inside "$LAB_ROOTFS" "$data" "$net" "$mtu" "$backend"
    ) </dev/null >"$LAB_RUN/log" 2>&1 &
    engine_ready $!
}

# Waits for dockerd's word that it serves, or for the end of process $1.
engine_ready() {
    local follower status=0 why=ended
    exec {follower}< <(exec tail -n +1 -f --pid="$1" "$LAB_RUN/log")
    timeout "$ENGINE_READY_SECONDS" grep -q 'API listen on' <&"$follower" || status=$?
    kill $! 2>/dev/null || true
    wait $! 2>/dev/null || true
    exec {follower}<&-
    [ $status -ne 0 ] || return 0
    [ $status -ne 124 ] || why="was not ready within $ENGINE_READY_SECONDS s"
    tail -n 20 "$LAB_RUN/log" >&2
    cp "$LAB_RUN/log" "$LAB_CACHE/engine/log"
    engine_stop
    die "the embedded dockerd $why: its last lines are above, all of them in $LAB_CACHE/engine/log; mend what they name, or set DOCKER_HOST to an engine that can run privileged containers"
}

# Ends the engine if it lives, and clears away what is left of it in any case.
engine_stop() {
    local pid parent
    if engine_alive; then
        parent=$(<"$LAB_RUN/alive")
        pid=$(cat "$LAB_RUN/pid" 2>/dev/null || echo "$parent")
        kill -TERM "$pid" || true
        if ! engine_ended "$ENGINE_STOP_SECONDS"; then
            say "dockerd (pid $pid) did not stop within $ENGINE_STOP_SECONDS s: killing it"
            # The parent's end is the child's (--kill-child), and so everybody's.
            kill -KILL "$parent" || true
            engine_ended 10 ||
                die "pid $parent cannot be killed: see 'cat /proc/$parent/stack', then call 'tests/lab down' again"
        fi
        # It is the host's PID 1 that reaps it, and some take seconds.
        timeout 5 tail --pid="$parent" -s 0.1 -f /dev/null || true
    fi
    network_clean
    cgroup_clean
    rm -rf --one-file-system "$LAB_RUN"
}

# Whether the engine at DOCKER_HOST (or docker's own choice) may be used as it is.
engine_privileged() {
    local answer
    if ! answer=$(timeout 20 docker version --format '{{.Server.Version}}' 2>&1); then
        [ -z "${DOCKER_HOST-}" ] || say "DOCKER_HOST=$DOCKER_HOST: no answer (${answer##*$'\n'})"
        return 1
    fi
    busybox_image
    # To mount is what a container may do only when it is privileged for real.
    if ! answer=$(docker run --rm --privileged --network none "$BUSYBOX_IMAGE" mount -t tmpfs none /mnt 2>&1); then
        say "the engine of ${DOCKER_HOST:-the default socket} runs no privileged containers (${answer%%$'\n'*})"
        return 1
    fi
}

# Chooses the engine, starts it if need be, and exports DOCKER_HOST.
engine_use() {
    local ours=unix://$LAB_SOCKET
    LAB_EMBEDDED=
    if [ "${DOCKER_HOST:-$ours}" != "$ours" ] || { [ -z "${DOCKER_HOST-}" ] && ! engine_alive; }; then
        if [ -n "${DOCKER_HOST-}" ] || command -v docker >/dev/null || [ -S /var/run/docker.sock ]; then
            engine_cli
            if engine_privileged; then
                DOCKER_HOST=$(docker context inspect --format '{{.Endpoints.docker.Host}}')
                export DOCKER_HOST
                return
            fi
        fi
    fi
    need_root "start the embedded engine"
    # shellcheck disable=SC2034 # images.sh reads it
    LAB_EMBEDDED=1
    unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_TLS DOCKER_CERT_PATH
    export DOCKER_HOST=$ours
    lab_lock
    if engine_alive; then
        # `up` may have been killed after it started the engine.
        engine_ready "$(<"$LAB_RUN/alive")"
    else
        engine_stop
        engine_start
        # shellcheck disable=SC2034 # cargo.sh reads it
        LAB_STARTED=1
    fi
    lab_unlock
    engine_cli
}

lab_up() {
    [ $# -eq 0 ] || usage_error "up: takes no argument, not '$1'"
    engine_use
    printf 'export DOCKER_HOST=%s\n' "$DOCKER_HOST"
}

lab_down() {
    [ $# -eq 0 ] || usage_error "down: takes no argument, not '$1'"
    vm_down
    engine_down
}

engine_down() {
    [ -e "$LAB_RUN" ] || return 0
    lab_lock
    if engine_alive; then
        say "stopping the engine"
        engine_empty
    fi
    engine_stop
    lab_unlock
}

# Containers, their volumes and networks are not kept: they would fill the cache
# with data roots. Images and the build cache are.
engine_empty() {
    local -a containers
    export DOCKER_HOST=unix://$LAB_SOCKET
    command -v docker >/dev/null || PATH=$PATH:$LAB_CACHE/bin
    mapfile -t containers < <(timeout 20 docker ps --all --quiet 2>/dev/null)
    [ ${#containers[@]} -eq 0 ] || timeout 60 docker rm --force --volumes "${containers[@]}" >/dev/null 2>&1 ||
        say "not every container could be removed"
    timeout 60 docker network prune --force >/dev/null 2>&1 || true
}
