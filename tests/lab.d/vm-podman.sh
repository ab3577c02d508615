# shellcheck shell=bash
# Podman in the place of Docker on the outside, on the host with cgroup v2: a part of
# vm-checks.sh. Its containers are as real as its users have them; those that could be
# wrong in something are made over there.
#
# Podman's cgroup manager is cgroupfs, for there is no systemd in the machine.

PODMAN_NOTIFY=$LAB/notify
PODMAN_PORT=2375
# The machine emulates its processor: nothing here is about how long a stop may take.
PODMAN_STOP_SECONDS=100
# README's flags for an engine without --privileged, and no right beyond those; but for the one
# about AppArmor, and what connects the network.
PODMAN_BARE=(
    --security-opt "seccomp=$LAB/dind.json" --security-opt systempaths=unconfined
    --security-opt no-new-privileges --cap-drop ALL --cap-add "CHOWN,DAC_OVERRIDE,KILL,SETGID,SETUID"
    --env DOCKER_TLS_CERTDIR= --volume "$LAB:$LAB" --stop-timeout $((2 * PODMAN_STOP_SECONDS))
)

# Runs the checks in namespaces in which podman is installed and has the network for
# itself, so that the machine is afterwards what it was.
podman_namespace() {
    local log=$LAB/log/podman.log failed
    failed=$(failures)
    NEIGHBOUR=$NEIGHBOUR unshare --mount --net -- "$LAB/checks" podman_checks 2>"$log" ||
        fail "podman: the checks come to their end" "status $?"
    show podman "$failed" "$log"
}

podman_checks() {
    local directory
    # What the machine has itself stays as it is.
    for directory in usr etc; do
        mount -t overlay -o "lowerdir=/$directory:/var/lib/containers/$directory" overlay /$directory
    done
    mount --make-rshared /
    ip link set lo up
    trap 'PODMAN=(podman); podman rm --all --force --time 0 >/dev/null' EXIT
    echo "== podman, with a daemon that listens"
    podman_serves
    echo "== podman, with a command"
    podman_runs
    echo "== podman, without --privileged"
    dind seccomp >"$LAB/dind.json"
    podman_confined
    podman_bare bare '0 1000 1 1 100000 65536' --device /dev/net/tun
    echo "== podman, without --privileged, in a user namespace"
    # With a map of its own a container has the host's node of the device, which only root may open.
    podman_bare mapped '0 1000 1 1 1 999 1000 1001 18999' --cap-add NET_ADMIN \
        --uidmap 0:200000:20000 --gidmap 0:200000:20000
    echo "== podman, without --privileged, of a user who is not root"
    podman_visits
}

PODMAN=(podman)
PODMAN_OF_VISITOR=(
    setpriv --reuid visitor --regid visitor --clear-groups
    env HOME=/tmp/visitor XDG_RUNTIME_DIR=/tmp/visitor podman --root /var/lib/containers/visitor
)
podman() { timeout "$CONTAINER_SECONDS" "${PODMAN[@]}" "$@"; }

# Prints a line when it listens on the socket, and what arrives there.
podman_listen() {
    # shellcheck disable=SC2016 # perl's variables
    exec perl -MSocket -e '$| = 1;
        socket(SOCKET, PF_UNIX, SOCK_DGRAM, 0) && bind(SOCKET, sockaddr_un($ARGV[0])) or die "$ARGV[0]: $!";
        print "listens\n";
        print "$_\n" while defined recv(SOCKET, $_, 4096, 0)' "$1"
}

# The container is there before its command runs (`podman init`), and so is all that
# podman does to the cgroups: what changes after that, dind has changed.
podman_serves() {
    local notified listener output line='' id before inner state client=(docker --host "tcp://127.0.0.1:$PODMAN_PORT")
    exec {notified}< <(podman_listen "$PODMAN_NOTIFY")
    listener=$!
    read -r -u "$notified"
    export NOTIFY_SOCKET=$PODMAN_NOTIFY
    id=$(podman create --name serves --privileged --cgroupns host --sdnotify container \
        --cpus 1.5 --memory "$OUTER_MEMORY" --pids-limit "$OUTER_PIDS" \
        --volume data:/var/lib/docker --volume "$LAB:$LAB" --publish 127.0.0.1:$PODMAN_PORT:2375 \
        --env DOCKER_TLS_CERTDIR= --env DIND_STOP_TIMEOUT=$PODMAN_STOP_SECONDS \
        --stop-timeout $((2 * PODMAN_STOP_SECONDS)) dind)
    podman init serves >/dev/null
    OUTER=$CGROUPS/libpod_parent/libpod-$id
    before=$(outside)
    podman start serves >/dev/null
    unset NOTIFY_SOCKET

    until [ "$line" = READY=1 ]; do
        if ! read -r -t "$CONTAINER_SECONDS" -u "$notified" line; then
            line='no READY=1'
            break
        fi
    done
    kill $listener
    # A client would wait for dockerd, for its socket is there from the start.
    equals "podman: READY=1 arrives at its socket, and the daemon is healthy by then" 'READY=1, 0' \
        "$line, $(podman exec serves dind health >&2 && echo 0 || echo $?)"
    equals "podman: its health check" 0 "$(podman healthcheck run serves >&2 && echo 0 || echo $?)"
    has "podman: a client on the published port" "Loaded image: $BUSYBOX" \
        "$("${client[@]}" load --quiet --input "$LAB/busybox.tar")"
    podman exec serves "$LAB/checks" podman_inside
    mkfifo "$LAB/inner"
    exec {output}<>"$LAB/inner"
    inner=$("${client[@]}" run --detach --network none --volume "$LAB:$LAB" "$BUSYBOX" \
        sh -c "exec >$LAB/inner; trap 'echo ended; exit' TERM; cat /proc/self/attr/current; sleep 1000 & wait")
    read -r -t "$CLIENT_SECONDS" -u "$output" line || line='no word of it'
    equals "podman: the inner container is confined by AppArmor" 'docker-default (enforce)' "$line"
    equals "podman: the inner container's cgroup is below the container's" \
        "$OUTER/docker/$inner" "$(find "$CGROUPS" -type d -name "*${inner:-no id}*")"
    same "podman: no cgroup outside of the container's is made or changed" "$before" "$(outside)"

    podman stop serves >/dev/null
    state=$(podman inspect --format '{{.State.Status}} {{.State.ExitCode}}' serves)
    read -r -t "$CLIENT_SECONDS" -u "$output" line || line='killed'
    equals "podman: stopped, the inner container first" 'ended, exited 0' "$line, $state"
    podman logs serves >"$LAB/log/serves.log" 2>&1
    equals "podman: dind kills nothing, and says nothing against the cgroups" '' \
        "$(grep -E '^dind: (warning|error): .*(cgroup|killed)' "$LAB/log/serves.log")"
    cat "$LAB/log/serves.log" >&2
}

podman_inside() {
    # shellcheck disable=SC2046 # a word for each process
    delegated podman 1 $(daemons)
}

# The image that the daemon before was given is still in the volume.
podman_runs() {
    local output status=0
    output=$(podman --cgroup-manager cgroupfs run --privileged --rm --volume data:/var/lib/docker dind \
        docker run --rm --memory 64m "$BUSYBOX" sh -c 'cat /sys/fs/cgroup/memory.max; exit 7') || status=$?
    equals "podman: the command's output, and its status" '67108864, 7' "$output, $status"
}

podman_confined() {
    local output status=0
    output=$(podman run --rm "${PODMAN_BARE[@]}" --device /dev/net/tun dind docker info 2>&1) || status=$?
    has "podman: the flag for what AppArmor denies is named" \
        '^dind: error: .*AppArmor enforces the profile containers-default.*--security-opt apparmor=unconfined' "$output"
    equals "podman: no daemon has started by then" '1, 0' "$status, $(grep -c level= <<<"$output" || true)"
}

# Mounts, network interfaces and rules of nf_tables where podman runs.
podman_place() {
    cut -d' ' -f4- /proc/self/mountinfo | sort
    ip -brief link | cut -d' ' -f1 | sort
    nft --stateless list ruleset 2>&1
}

# podman_bare NAME MAP OPTION...: an engine in a container with OPTIONs. Root of an inner container is
# in a user namespace with this map of ids. Podman makes /sys/fs/cgroup writable where it uncovers
# /proc, so limits hold.
podman_bare() {
    local name=$1 map=$2 id directories place before
    shift 2
    directories=$(find "$CGROUPS" -type d | sort)
    place=$(podman_place)
    id=$(podman create --name "$name" "${PODMAN_BARE[@]}" --security-opt apparmor=unconfined "$@" dind)
    podman init "$name" >/dev/null
    OUTER=$CGROUPS/libpod_parent/libpod-$id
    before=$(outside && podman_place)
    podman start "$name" >/dev/null
    has "podman, $name: docker load" "Loaded image: $BUSYBOX" \
        "$(podman exec "$name" docker load --quiet --input "$LAB/busybox.tar" 2>&1)"
    equals "podman, $name: an inner container's ids, its limits, and its engine's driver" \
        "$map 67108864 50000 100000 50, cgroupfs" \
        "$(podman exec "$name" docker run --rm --memory 64m --cpus 0.5 --pids-limit 50 "$BUSYBOX" \
            sh -c 'cd /sys/fs/cgroup && cat /proc/self/uid_map memory.max cpu.max pids.max' 2>&1 |
            xargs), $(podman exec "$name" docker info --format '{{.CgroupDriver}}' 2>&1)"
    podman exec "$name" docker run --detach "$BUSYBOX" sleep 1000 >/dev/null
    same "podman, $name: nothing outside of the container's is made or changed" "$before" "$(outside && podman_place)"
    podman pause "$name" >/dev/null
    podman unpause "$name" >/dev/null
    equals "podman, $name: after a pause the same runs" 'sleep 1000' \
        "$(podman exec "$name" docker ps --no-trunc --format '{{.Command}}' 2>&1 | tr -d '"')"
    podman kill --signal KILL "$name" >/dev/null
    podman wait "$name" >/dev/null
    podman logs "$name" >&2
    podman rm --volumes "$name" >/dev/null
    same "podman, $name: after SIGKILL nothing is left" "$directories $place" \
        "$(find "$CGROUPS" -type d | sort) $(podman_place)"
}

# Podman without root: its container has the ids of the user and those of /etc/subuid. No cgroup is the
# user's, so limits do not hold.
podman_visits() {
    local file directories place
    directories=$(find "$CGROUPS" -type d | sort)
    place=$(podman_place)
    for file in passwd group subuid subgid; do
        mount --bind /var/lib/containers/etc/$file /etc/$file
    done
    install -d -o visitor -g visitor /tmp/visitor
    PODMAN=("${PODMAN_OF_VISITOR[@]}")
    podman run --detach --name visits "${PODMAN_BARE[@]}" --security-opt apparmor=unconfined \
        --network none --cap-add NET_ADMIN dind >/dev/null
    has "podman, not root: docker load" "Loaded image: $BUSYBOX" \
        "$(podman exec visits docker load --quiet --input "$LAB/busybox.tar" 2>&1)"
    equals "podman, not root: an inner container's ids" '0 1000 1 1 1 999 1000 1001 64536' \
        "$(podman exec visits docker run --rm "$BUSYBOX" cat /proc/self/uid_map 2>&1 | xargs)"
    podman logs visits >"$LAB/log/visits.log" 2>&1
    has "podman, not root: what does not hold is said" \
        '^dind: warning: rootless: limits of inner containers are not enforced' "$(<"$LAB/log/visits.log")"
    cat "$LAB/log/visits.log" >&2
    podman kill --signal KILL visits >/dev/null
    podman wait visits >/dev/null
    podman rm --volumes visits >/dev/null
    PODMAN=(podman)
    for file in passwd group subuid subgid; do
        umount /etc/$file
    done
    same "podman, not root: after SIGKILL nothing is left" "$directories $place" \
        "$(find "$CGROUPS" -type d | sort) $(podman_place)"
}
