# shellcheck shell=bash
# What the crates may be: their licences, their sources, what is known against them.

DENY_VERSION=0.20.2
DENY=$LAB_CACHE/cargo-deny-$DENY_VERSION

# Once, in the dev profile: what it takes is its compilation, not its run.
need_deny() {
    [ ! -x "$DENY/bin/cargo-deny" ] || return 0
    say "installing cargo-deny $DENY_VERSION in $DENY (some minutes, once)"
    # A directory of its own: the rustflags of .cargo/config.toml are not for it.
    (cd "$LAB_CACHE" && CARGO_PROFILE_DEV_DEBUG=0 \
        cargo install --quiet --locked --debug --version "=$DENY_VERSION" --root "$DENY.part" cargo-deny >&2) ||
        die "cargo-deny cannot be installed: see above"
    mv -T "$DENY.part" "$DENY"
}

# lab_deny [CHECK...]: without advisories, which come out of a repository of RustSec's and
# change by the day, so that they are no fault of a change.
lab_deny() {
    [ $# -gt 0 ] || set -- bans licenses sources
    need_cargo
    mkdir -p "$LAB_CACHE"
    need_deny
    "$DENY/bin/cargo-deny" --locked check "$@"
}
