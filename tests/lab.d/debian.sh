# shellcheck shell=bash
# Root filesystems out of Debian packages.

# apt lines for SUITE at the mirror that this machine's own apt uses for Debian.
# Nothing where it uses none: mmdebstrap then has its own default.
debian_sources() {
    local suite=$1
    # shellcheck disable=SC2016 # apt fills these in, not the shell
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' -v suite="$suite" '
            $1 != "Debian" { next }
            $2 == "Debian" && !main { main = $3 }
            $2 == "Debian-Security" && !security { security = $3 }
            END {
                if (!main) exit
                print "deb " main " " suite " main"
                print "deb " main " " suite "-updates main"
                if (security) print "deb " security " " suite "-security main"
            }'
}

# debian_bootstrap SUITE DIRECTORY [MMDEBSTRAP-OPTION...]
# DIRECTORY is there complete, or not at all.
debian_bootstrap() {
    local suite=$1 target=$2 valid proxy sources part log
    shift 2
    need_root "make a root filesystem"
    need_tool mmdebstrap mmdebstrap
    need_file /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
    local -a options=(--variant=minbase "$@")

    # mmdebstrap reads nothing of /etc/apt/apt.conf.d. These two decide whether a
    # mirror can be reached, and believed, from this machine.
    eval "$(apt-config shell valid Acquire::Check-Valid-Until/b proxy Acquire::http::Proxy)"
    # A testing suite's Release file lives for a week: a mirror that stands still
    # has none but stale ones.
    [ "$suite" != forky ] || valid=false
    [ "${valid:-true}" = true ] || options+=(--aptopt='Acquire::Check-Valid-Until "false"')
    [ -z "${proxy-}" ] || options+=(--aptopt="Acquire::http::Proxy \"$proxy\"")

    options+=("$suite")
    part=$target.part
    options+=("$part")
    apt_lists
    sources=$(debian_sources "$suite")
    [ -z "$sources" ] || options+=(-)

    mkdir -p "${target%/*}"
    rm -rf --one-file-system "$part"
    log=$target.log
    if ! mmdebstrap "${options[@]}" <<<"$sources" 2> >(tee "$log" | sed -un 's/^I: /lab:   /p' >&2); then
        tail -n 20 "$log" >&2
        die "mmdebstrap could not make $target from Debian $suite: the end of $log is above; mend what it names, try again"
    fi
    mv -T "$part" "$target"
    rm -f "$log"
}
