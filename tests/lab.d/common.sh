# shellcheck shell=bash
# Messages, paths, packages and the lock, for every part of the lab. Messages go to standard
# error: standard output has the one line of `up`, and the output of the user's command.

say() { printf 'lab: %s\n' "$*" >&2; }

die() {
    printf 'lab: error: %s\n' "$*" >&2
    exit 1
}

usage_error() {
    printf 'lab: error: %s\n' "$*" >&2
    exit 2
}

# Root has no HOME in some CI services.
LAB_CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dind-lab
# One directory for the whole machine, not one for each user: the bridge and the cgroups of
# the engine are the machine's too, and `down` must find the engine of another user's `up`.
LAB_RUN=/run/dind-lab
# shellcheck disable=SC2034 # engine.sh reads it
LAB_SOCKET=$LAB_RUN/docker.sock

# need_root [TO-DO-WHAT]
need_root() {
    [ "$(id -u)" = 0 ] ||
        die "only root can ${1:-do this}, and this is uid $(id -u): use sudo, or set DOCKER_HOST to an engine that can run privileged containers"
}

# One `up` or `down` at a time on the machine. The lock belongs to the descriptor, so it
# ends with this process.
lab_lock() {
    [ -z "${LAB_LOCK_FD-}" ] || return 0
    need_root "start or stop the embedded engine"
    mkdir -p /run/lock
    exec {LAB_LOCK_FD}>/run/lock/dind-lab.lock
    flock -n "$LAB_LOCK_FD" && return
    say "waiting for another tests/lab"
    flock -w 900 "$LAB_LOCK_FD" ||
        die "/run/lock/dind-lab.lock is held for 15 minutes: see 'fuser -v /run/lock/dind-lab.lock', end that process, try again"
}

lab_unlock() {
    [ -n "${LAB_LOCK_FD-}" ] || return 0
    exec {LAB_LOCK_FD}>&-
    unset LAB_LOCK_FD
}

# drop_descriptors KEPT: closes the descriptors above KEPT, so that a child does not hold the
# lock, or a pipe that the caller's caller reads until its end.
drop_descriptors() {
    local fd
    for fd in /proc/"$BASHPID"/fd/*; do
        fd=${fd##*/}
        [ "$fd" -le "$1" ] || eval "exec $fd>&-"
    done
}

# A directory for this run's scratch files.
scratch() {
    [ -z "${LAB_SCRATCH-}" ] || return 0
    mkdir -p "$LAB_CACHE"
    LAB_SCRATCH=$(mktemp -d "$LAB_CACHE/scratch.XXXXXX")
}

# Once a run. How old the lists are cannot be seen: their dates are the mirror's.
apt_lists() {
    [ -z "${LAB_APT_FRESH-}" ] || return 0
    LAB_APT_FRESH=1
    say "apt-get update"
    apt-get update -qq >&2 || die "apt-get update failed: see above, mend /etc/apt, try again"
}

# need_file FILE PACKAGE: installs PACKAGE unless FILE is there.
need_file() {
    [ ! -e "$1" ] || return 0
    command -v apt-get >/dev/null ||
        die "$1 is missing, and so is apt-get: install what has it, or set DOCKER_HOST to an engine that can run privileged containers"
    need_root "install $2"
    apt_lists
    say "installing $2 (apt)"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null ||
        die "apt could not install $2: run 'apt-get install $2' to see why"
}

# need_tool COMMAND PACKAGE: installs PACKAGE unless COMMAND is in PATH.
need_tool() {
    command -v "$1" >/dev/null || need_file "the command $1" "$2"
}

# However the lab ends. Subshells do not inherit the trap.
lab_exit() {
    [ -z "${LAB_SCRATCH-}" ] || rm -rf --one-file-system "$LAB_SCRATCH"
    [ -z "${LAB_DOWN_AT_EXIT-}" ] || engine_down
}
trap lab_exit EXIT
