# shellcheck shell=bash
# The binary for arm64, cross-compiled, and qemu's user emulation to run it, which needs no
# kernel, no root and no other file.

ARM64_TARGET=aarch64-unknown-linux-gnu
ARM64_QEMU=$LAB_CACHE/qemu-aarch64

# Installs the Rust target, and the C compiler and linker that ring and rustc need for it.
need_arm64() {
    need_cargo
    need_tool aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
    need_file "$(aarch64-linux-gnu-gcc -print-file-name=libc.a)" libc6-dev-arm64-cross
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    [ ! -d "$(rustc --print target-libdir --target "$ARM64_TARGET")" ] || return 0
    command -v rustup >/dev/null ||
        die "rustc has no target $ARM64_TARGET and there is no rustup: install the target with what installed rustc"
    say "installing the target $ARM64_TARGET (rustup)"
    rustup --quiet target add "$ARM64_TARGET" >&2 ||
        die "rustup could not install $ARM64_TARGET: see above, try again"
}

# $ARM64_QEMU out of Debian's packages, of which none is installed: they would register
# themselves with the kernel, for every process of the machine. Before trixie the static
# programs are in a package of their own.
arm64_qemu() {
    local package path
    [ ! -x "$ARM64_QEMU" ] || return 0
    say "downloading qemu-aarch64 (apt)"
    [ "$(id -u)" != 0 ] || apt_lists
    scratch
    for package in qemu-user-static qemu-user; do
        (cd "$LAB_SCRATCH" && apt-get download -qq -o APT::Sandbox::User=root "$package" >&2) || continue
        for path in usr/bin/qemu-aarch64-static usr/bin/qemu-aarch64; do
            dpkg-deb --fsys-tarfile "$LAB_SCRATCH/${package}"_*.deb |
                tar -x -O "./$path" >"$ARM64_QEMU.part" 2>/dev/null || continue
            # A symbolic link has no content, and a dynamic program an interpreter.
            [ -s "$ARM64_QEMU.part" ] || continue
            ! readelf --program-headers "$ARM64_QEMU.part" | grep -q INTERP || continue
            chmod 0755 "$ARM64_QEMU.part"
            mv "$ARM64_QEMU.part" "$ARM64_QEMU"
            return
        done
    done
    die "no package has a static qemu-aarch64: run 'apt-get download qemu-user-static qemu-user' to see why"
}

# The release binary, for tests/e2e/arm64.rs.
arm64_binary() {
    need_arm64
    arm64_qemu
    say "building the binary for arm64"
    DIND_LAB_ARM64=$(cargo build --release --locked --target "$ARM64_TARGET" --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    [ -n "$DIND_LAB_ARM64" ] ||
        die "cargo made no binary for arm64: see 'cargo build --release --target $ARM64_TARGET'"
    DIND_LAB_QEMU=$ARM64_QEMU
    export DIND_LAB_ARM64 DIND_LAB_QEMU
}

# The unit tests under emulation. Those in tests/ are not run: they need OpenSSL and the
# namespaces of this kernel. tests/e2e/arm64.rs runs the binary itself.
#
# This emulation has no ptrace(2), no openat2(2), no IP_PKTOPTIONS of ip(7) and no keyctl(2).
ARM64_SKIPPED=(
    --skip sys::denied::tests::asking_changes_nothing_and_finds_nothing_here
    --skip sys::trace::tests::a_signal_stops_a_traced_process_before_it_takes_it
    --skip sys::read::tests::nothing_beneath_a_directory_leads_out_of_it
    --skip helpers::forwarder::tests::idle_connections_keep_no_other_client_out
    --skip helpers::forwarder::tests::nobody_goes_for_a_newcomer_that_no_resolver_takes
)

lab_arm64() {
    need_arm64
    arm64_qemu
    [ $# -gt 0 ] || set -- -- "${ARM64_SKIPPED[@]}"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$ARM64_QEMU \
        cargo test --locked --target "$ARM64_TARGET" --lib "$@"
}
