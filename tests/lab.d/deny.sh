# shellcheck shell=bash
# The crates: licences, sources, bans and advisories, checked by cargo-deny.

DENY_VERSION=0.20.2
DENY=$LAB_CACHE/cargo-deny-$DENY_VERSION

# Installed once, in the dev profile: compiling it takes long, running it does not.
need_deny() {
    [ ! -x "$DENY/bin/cargo-deny" ] || return 0
    say "installing cargo-deny $DENY_VERSION in $DENY (some minutes, once)"
    # Outside the checkout, where the rustflags of .cargo/config.toml do not apply.
    (cd "$LAB_CACHE" && CARGO_PROFILE_DEV_DEBUG=0 \
        cargo install --quiet --locked --debug --version "=$DENY_VERSION" --root "$DENY.part" cargo-deny >&2) ||
        die "cargo-deny cannot be installed: see above"
    mv -T "$DENY.part" "$DENY"
}

# lab_deny [CHECK...]: by default without advisories. They come from RustSec's repository,
# change daily, and do not depend on a commit.
lab_deny() {
    [ $# -gt 0 ] || set -- bans licenses sources
    need_cargo
    mkdir -p "$LAB_CACHE"
    need_deny
    "$DENY/bin/cargo-deny" --locked check "$@"
}
