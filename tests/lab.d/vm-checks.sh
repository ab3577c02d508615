#!/bin/bash
# What dind does to cgroup v2, seen from its host: vm-init.sh runs this. The
# arguments are a function of this file and its arguments, for it also is what runs
# in the containers that it makes.
#
# These are made by hand, so that they can be made wrong: in the order in which
# Docker does it for --privileged, PID 1 enters a cgroup with limits, gets its cgroup
# namespace there, and a cgroup2 mount of that namespace. After them come podman's.
#
# On the console `ok NAME` and `FAIL NAME: REASON` are results, `== ` begins a
# stage, `| ` is a line of a log, and the last line counts the results.
set -euo pipefail

LAB=/lab
CGROUPS=/sys/fs/cgroup
OUTER=$CGROUPS/outer
BUSYBOX=dind-lab/busybox

# shellcheck source=tests/lab.d/vm-podman.sh
. $LAB/podman

# Unlike every limit that an inner container is given here, so that neither can be
# taken for the other.
OUTER_CPU='150000 100000'
OUTER_MEMORY=$((384 << 20))
OUTER_PIDS=1000

# What hangs must not take the other checks with it. Where the processor is
# emulated, a container with a daemon takes half a minute.
CONTAINER_SECONDS=300
CLIENT_SECONDS=100
TEST_SECONDS=90

### Results

pass() { echo "ok $1" | tee -a $LAB/results; }

fail() { echo "FAIL $1: $(tr -s '\n\t ' ' ' <<<"$2")" | tee -a $LAB/results; }

# equals NAME EXPECTED ACTUAL
equals() {
    if [ "$2" = "$3" ]; then
        pass "$1"
    else
        fail "$1" "expected '$2', got '$3'"
    fi
}

# has NAME PATTERN TEXT: a line of TEXT matches an extended regular expression.
has() {
    if grep -Eq -- "$2" <<<"$3"; then
        pass "$1"
    else
        fail "$1" "no line matches '$2' in '$3'"
    fi
}

# same NAME BEFORE AFTER: no line is gone, new or different.
same() {
    local changes
    if changes=$(diff <(echo "$2") <(echo "$3")); then
        pass "$1"
    else
        fail "$1" "$changes"
    fi
}

failures() { grep -c '^FAIL ' $LAB/results || true; }

# show NAME FAILURES LOG: the end of LOG, if there were fewer failures before.
show() {
    [ "$(failures)" = "$2" ] || tail -n 40 "$3" | sed "s/^/| $1: /"
}

### Containers

# A file of words, in the order of the alphabet.
sorted() { tr -s ' ' '\n' <"$1" | sort | xargs; }

# Switches the controllers of a cgroup for its children: + or -, all that FILE names.
switch() {
    local sign=$1 directory=$2 file=$3 controller
    # One at a time, or the first that is in use would keep the others.
    for controller in $(<"$directory/$file"); do
        echo "$sign$controller" >"$directory/cgroup.subtree_control"
    done
}

# All of the cgroups outside of the container's that anybody in it could change:
# which there are, their controllers and limits, where a neighbour is, and with which
# options they are mounted.
outside() {
    find $CGROUPS -type d -not -path "$OUTER/*" | sort
    find $CGROUPS -type f \( -name cgroup.subtree_control -o -name cgroup.type -o -name '*.max' \) \
        -not -path "$OUTER/*" -exec grep -H '' {} + | sort
    # The container's own limits are set from outside.
    find "$OUTER" -maxdepth 1 -type f -name '*.max' -exec grep -H '' {} + | sort
    cat "/proc/$NEIGHBOUR/cgroup"
    grep -F " $CGROUPS " /proc/self/mountinfo
}

# The container's cgroup, made anew as Docker does at every start.
outer_new() {
    [ ! -d $OUTER ] || find $OUTER -depth -type d -exec rmdir {} +
    mkdir $OUTER
    echo "$OUTER_CPU" >$OUTER/cpu.max
    echo $OUTER_MEMORY >$OUTER/memory.max
    echo $OUTER_PIDS >$OUTER/pids.max
}

# The container's cgroup with everything that the last start left in it. It takes
# processes only while it has no controllers enabled.
outer_again() {
    local directory
    while read -r directory; do
        switch - "$directory" cgroup.subtree_control
    done < <(find $OUTER -depth -type d)
}

# container LOG private|host COMMAND...
# Runs COMMAND with a cgroup namespace of its own or with the machine's; its
# standard error goes to LOG.
container() {
    local log=$1
    shift
    timeout --kill-after 5 $CONTAINER_SECONDS \
        unshare --pid --fork --kill-child --mount --propagation private --mount-proc --net --uts --ipc -- \
        $LAB/checks enter "$@" </dev/null 2>"$log"
}

# PID 1 enters the cgroup by itself: were unshare's parent process in there too,
# dind could not move that, for it is of another pid namespace.
enter() {
    local namespace=$1
    shift
    echo 0 >$OUTER/cgroup.procs
    case $namespace in
    private) exec unshare --cgroup -- $LAB/checks start "$@" ;;
    host) exec $LAB/checks start "$@" ;;
    esac
}

start() {
    umount -R /sys
    mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
    # In the machine's cgroup namespace these options become those of every mount.
    mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 $CGROUPS
    mount --bind $LAB/volume /var/lib/docker
    ip link set lo up
    exec "$@"
}

# watched NAME private|host CHECKS COMMAND...
# Runs COMMAND in a container that must end with status 7. When it calls `meet`, it
# waits until CHECKS have been made out here.
watched() {
    local name=$1 namespace=$2 checks=$3 log=$LAB/log/$1.log before word rest failed job
    shift 3
    failed=$(failures)
    before=$(outside)
    {
        container "$log" "$namespace" "$@" && status=0 || status=$?
        echo "ended $status" >$LAB/there
    } &
    job=$!
    read -r word rest <&"$THERE"
    if [ "$word" = met ]; then
        "$checks" "$name" "$before" "$log" "$rest"
        echo >&"$GO"
        read -r word rest <&"$THERE"
    else
        fail "$name: the command gets to its checks" "the container ended before"
    fi
    wait $job
    equals "$name: the container's status is the command's" 'ended 7' "$word $rest"
    show "$name" "$failed" "$log"
}

# In a container: has `watched` make its checks, which get the word too.
meet() {
    echo "met ${1-}" >$LAB/there
    read -r <$LAB/go
}

### What is seen from outside of a container

outside_hack() {
    local name=$1 before=$2 log=$3
    same "$name: no cgroup outside of the container's is made or changed" "$before" "$(outside)"
    equals "$name: the container's cgroup itself has no process" '' "$(xargs <$OUTER/cgroup.procs)"
    equals "$name: dind says nothing against the cgroups" '' "$(grep -E '^dind: (warning|error): .*cgroup' "$log")"
}

outside_private() {
    local name=$1 id=$4
    outside_hack "$@"
    equals "$name: the inner container's cgroup is below the container's" \
        "$OUTER/docker/$id" "$(find $CGROUPS -type d -name "*${id:-no id}*")"
}

outside_init() {
    local name=$1 log=$3
    outside_private "$@"
    has "$name: dind has a parent" '^dind: warning: not PID 1' "$(<"$log")"
}

### What is seen in a container

# A client must not wait for a daemon that is stuck.
docker() { timeout $CLIENT_SECONDS docker "$@" 2>&1; }

daemons() { pgrep -x 'dockerd|containerd' | xargs; }

# The cgroups of these processes, each once.
cgroups_of() {
    local pid
    for pid in "$@"; do
        cat "/proc/$pid/cgroup"
    done | sort -u | xargs
}

# delegated NAME PID...: the processes are in the leaf, and the controllers are for
# the taking.
delegated() {
    local name=$1 file
    shift
    has "$name: the container has memory and pids among its controllers" '^([a-z]+ )*memory ([a-z]+ )*pids( |$)' \
        "$(sorted $CGROUPS/cgroup.controllers)"
    equals "$name: every controller is enabled" "$(sorted $CGROUPS/cgroup.controllers)" "$(sorted $CGROUPS/cgroup.subtree_control)"
    equals "$name: the root has no process" '' "$(xargs <$CGROUPS/cgroup.procs)"
    equals "$name: the leaf has them" '0::/init' "$(cgroups_of "$@")"
    equals "$name: the leaf has the container's cpu.max" "$OUTER_CPU" "$(cat $CGROUPS/init/cpu.max 2>&1)"
    for file in memory pids; do
        equals "$name: the container's $file.max is in sight" "$(<$LAB/outer.$file)" "$(<$CGROUPS/$file.max)"
    done
}

image_is_there() {
    local name=$1
    if [ "$name" = private ]; then
        has "$name: docker load" "Loaded image: $BUSYBOX" "$(docker load --quiet --input $LAB/busybox.tar)"
    else
        has "$name: the image is still there" "^$BUSYBOX:latest$" "$(docker images --format '{{.Repository}}:{{.Tag}}')"
    fi
}

limits_are_kept() {
    local name=$1
    equals "$name: an inner container has the limits that it was given" '67108864 50000 100000 50' \
        "$(docker run --rm --memory 64m --cpus 0.5 --pids-limit 50 $BUSYBOX \
            sh -c 'cd /sys/fs/cgroup && cat memory.max cpu.max pids.max' | xargs)"
}

# How many processes the kernel has killed for want of memory, in this cgroup and
# below it.
oom_kills() { sed -n 's/^oom_kill //p' $CGROUPS/memory.events; }

# memory_runs_out NAME MIB OPTION...: for an inner container that asks for MIB.
memory_runs_out() {
    local name=$1 mebibytes=$2 daemons kills
    shift 2
    daemons=$(daemons)
    kills=$(oom_kills)
    # It waits for a line: what ends while docker still starts it has no status.
    docker run --detach --interactive --name greedy "$@" $BUSYBOX \
        sh -c "read -r; exec dd if=/dev/zero of=/dev/null bs=${mebibytes}M count=1"
    echo | docker attach greedy || true
    equals "$name: it is killed, and nothing else" 'status 137, kills 1' \
        "status $(docker inspect --format '{{.State.ExitCode}}' greedy), kills $(($(oom_kills) - kills))"
    equals "$name: the daemons live on" "$daemons" "$(daemons)"
    docker rm --force greedy >/dev/null
}

# The command of a dind.
inside_private() {
    local name=$1 daemons
    daemons=$(daemons)
    has "$name: both daemons run" '^[0-9]+ [0-9]+$' "$daemons"
    # shellcheck disable=SC2086 # two words
    delegated "$name" 1 $$ $daemons
    equals "$name: dockerd sees cgroup v2 and AppArmor" '2 cgroupfs true' \
        "$(docker info --format '{{.CgroupVersion}} {{.CgroupDriver}} {{range .SecurityOptions}}{{if eq . "name=apparmor"}}true{{end}}{{end}}')"
    image_is_there "$name"
    limits_are_kept "$name"
    case $name in private | restart)
        memory_runs_out "$name: more memory than the inner container has" 128 --memory 64m
    esac
    case $name in private | host)
        memory_runs_out "$name: more memory than the container has" 450
    esac
    meet "$(docker run --detach --name lives $BUSYBOX sleep 1000)"
    equals "$name: the inner container is confined by AppArmor, the container is not" \
        'unconfined, docker-default (enforce)' \
        "$(</proc/self/attr/current), $(docker exec lives cat /proc/self/attr/current)"
    docker rm --force lives >/dev/null
    exit 7
}

# The command of a hack-dind, which has become it.
inside_hack() {
    local name=$1
    equals "$name: the command is PID 1" 1 $$
    equals "$name: the command knows that it is in a container" docker "${container-}"
    delegated "$name" $$
    meet
    exit 7
}

### The checks

checks() {
    : >$LAB/results
    mkdir -p $LAB/log $LAB/volume
    switch + $CGROUPS cgroup.controllers
    equals "the machine enables every controller" "$(sorted $CGROUPS/cgroup.controllers)" "$(sorted $CGROUPS/cgroup.subtree_control)"
    mkdir $CGROUPS/neighbour
    sleep infinity &
    NEIGHBOUR=$!
    echo $NEIGHBOUR >$CGROUPS/neighbour/cgroup.procs
    # Both ends are held open, or each side would wait for the other to open its.
    mkfifo $LAB/there $LAB/go
    exec {THERE}<>$LAB/there {GO}<>$LAB/go
    echo $OUTER_MEMORY >$LAB/outer.memory
    echo $OUTER_PIDS >$LAB/outer.pids

    echo "== the namespace tests"
    namespace_tests

    echo "== dind in a cgroup namespace of its own"
    outer_new
    watched private private outside_private dind $LAB/checks inside_private private
    echo "== the same, started again in the same cgroup"
    outer_again
    watched restart private outside_private dind $LAB/checks inside_private restart
    echo "== the same, below docker-init"
    outer_new
    watched init private outside_init docker-init -- dind $LAB/checks inside_private init
    echo "== hack-dind"
    outer_new
    watched hack private outside_hack hack-dind $LAB/checks inside_hack hack
    outer_again
    watched hack-twice private outside_hack hack-dind hack-dind $LAB/checks inside_hack hack-twice
    echo "== hack-dind, with others in its cgroup"
    hack_with_a_stranger
    hack_in_a_storm

    echo "== dind in the machine's cgroup namespace"
    outer_new
    # Otherwise there would be nothing that dind could wrongly do at the root.
    echo -hugetlb >$CGROUPS/cgroup.subtree_control
    watched host host outside_private dind $LAB/checks inside_private host
    echo "== hack-dind in the machine's cgroup namespace"
    outer_new
    watched hack-host host outside_hack hack-dind $LAB/checks inside_hack hack-host

    podman_namespace
}

namespace_tests() {
    local name log=$LAB/log/namespace.log failed
    local -a names
    # Those in modules are of stores and of published ports: they have the same on every host, and
    # some kill a process at each of its system calls, which takes minutes under emulation.
    mapfile -t names < <($LAB/namespace --list --format terse | sed -n 's/: test$//p' | grep -v ::)
    has "namespace: there are tests" '^delegation_' "$(printf '%s\n' "${names[@]}")"
    for name in "${names[@]}"; do
        failed=$(failures)
        if DIND_TEST_V2=1 timeout $TEST_SECONDS $LAB/namespace --exact "$name" --test-threads 1 >"$log" 2>&1 &&
            grep -q '^test result: ok. 1 passed' "$log"; then
            pass "namespace: $name"
        else
            fail "namespace: $name" "see its output"
        fi
        show "namespace: $name" "$failed" "$log"
    done
}

# A process that cannot be moved, because the container cannot see it: there is an
# end to the attempts, and the command runs.
hack_with_a_stranger() {
    local log=$LAB/log/stranger.log stranger status=0 failed
    failed=$(failures)
    outer_new
    sleep infinity &
    stranger=$!
    echo $stranger >$OUTER/cgroup.procs
    container "$log" private hack-dind sh -c 'exit 7' || status=$?
    equals "stranger: the command runs all the same" 7 $status
    equals "stranger: it is where it was" '0::/outer' "$(cgroups_of $stranger)"
    has "stranger: dind says that controllers are missing, and why" \
        '^dind: warning: .*a process of another pid namespace' "$(<"$log")"
    kill $stranger
    wait $stranger || true
    show stranger "$failed" "$log"
}

# As `docker exec` does it, processes enter the cgroup from outside all the time.
# These cannot be moved away, so dind has to wait for a gap between two of them.
hack_in_a_storm() {
    local log=$LAB/log/storm.log storm statuses='' status failed
    failed=$(failures)
    outer_new
    # Only those count that the kernel lets in, before dind is done.
    bash -c "count=0
        trap 'echo \$count >$LAB/entered; exit' TERM
        while :; do
            # It stays for a moment, or there would be more gaps than processes.
            if (echo 0 >$OUTER/cgroup.procs && for ((i = 0; i < 500; i++)); do :; done) 2>/dev/null; then
                count=\$((count + 1))
            fi
        done" &
    storm=$!
    while [ ${#statuses} -lt 20 ]; do
        outer_again
        status=0
        container "$log.part" private hack-dind $LAB/checks inside_storm || status=$?
        cat "$log.part" >>"$log"
        statuses+=$status,
    done
    kill $storm
    wait $storm
    has "storm: processes entered" '^[1-9][0-9]*$' "$(cat $LAB/entered)"
    equals "storm: every controller is enabled, each time" 7,7,7,7,7,7,7,7,7,7, "$statuses"
    equals "storm: dind gives no warning" '' "$(grep '^dind: warning' "$log")"
    show storm "$failed" "$log"
}

inside_storm() {
    [ "$(sorted $CGROUPS/cgroup.controllers)" = "$(sorted $CGROUPS/cgroup.subtree_control)" ] || exit
    exit 7
}

"$@"
