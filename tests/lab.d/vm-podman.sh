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
    trap 'podman rm --all --force --time 0 >/dev/null' EXIT
    echo "== podman, with a daemon that listens"
    podman_serves
    echo "== podman, with a command"
    podman_runs
}

podman() { timeout "$CONTAINER_SECONDS" podman "$@"; }

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
