# shellcheck shell=bash
# The files of a release: binaries, seccomp profile, SBOM and checksums.

CYCLONEDX_VERSION=0.5.9
CYCLONEDX=$LAB_CACHE/cargo-cyclonedx-$CYCLONEDX_VERSION

need_cyclonedx() {
    [ ! -x "$CYCLONEDX/bin/cargo-cyclonedx" ] || return 0
    say "installing cargo-cyclonedx $CYCLONEDX_VERSION in $CYCLONEDX (once)"
    (cd "$LAB_CACHE" && CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug \
        --version "=$CYCLONEDX_VERSION" --root "$CYCLONEDX.part" cargo-cyclonedx >&2) ||
        die "cargo-cyclonedx cannot be installed: see above"
    mv -T "$CYCLONEDX.part" "$CYCLONEDX"
}

# The crates in the binaries, as CycloneDX; both binaries have the same. `cargo metadata`, and
# with it cargo-cyclonedx, also lists optional crates that are not built
# (rust-lang/cargo#10801); `cargo tree` does not. Git refuses a checkout of another user,
# which it is where only apt needs root.
dist_sbom() {
    local tree
    tree=$(cargo tree --locked --edges normal --prefix none --target "$ARM64_TARGET" |
        sed 's/ (.*//' | sort -u)
    scratch
    # It is written beside Cargo.toml.
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH-$(git -c safe.directory="$LAB_TOP" log -1 --format=%ct)} \
        "$CYCLONEDX/bin/cargo-cyclonedx" cyclonedx --quiet --format json --target "$ARM64_TARGET" \
        --no-build-deps --override-filename dind-sbom >&2
    mv dind-sbom.json "$LAB_SCRATCH/sbom.json"
    jq --arg tree "$tree" '
        ($tree | split("\n")) as $crates
        | .components |= map(select("\(.name) v\(.version)" | IN($crates[])))
        | [.metadata.component."bom-ref", .components[]."bom-ref"] as $known
        | .dependencies |= map(select(.ref | IN($known[])) | .dependsOn |= map(select(IN($known[])))?)
        | if ($known | length) == ($crates | length) then . else error("a crate is missing") end
        # Without the path of the checkout.
        | walk(if type == "string" then sub("path[+]file://[^#]*#"; "") else . end)' \
        "$LAB_SCRATCH/sbom.json" ||
        die "the SBOM and 'cargo tree' list different crates: see above"
}

# lab_dist [DIRECTORY]
lab_dist() {
    local directory=${1-dist} binary
    [ $# -le 1 ] || usage_error "dist: takes one directory, not '$2' too"
    [ "$(uname -m)" = x86_64 ] ||
        die "dist makes both binaries on amd64, and this is $(uname -m): use such a machine"
    mkdir -p "$directory" "$LAB_CACHE"
    directory=$(realpath "$directory")
    [ -z "$(ls -A "$directory")" ] || die "$directory is not empty: remove what is in it, or name another"
    arm64_binary
    need_cyclonedx
    need_tool jq jq
    say "building the binary for amd64"
    binary=$(cargo build --release --locked --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    cp "${binary:?cargo build --release made no binary}" "$directory/dind-linux-amd64"
    cp "$DIND_LAB_ARM64" "$directory/dind-linux-arm64"
    # Both must start.
    [ "$("$directory/dind-linux-amd64" --version)" = "$("$ARM64_QEMU" "$directory/dind-linux-arm64" --version)" ] ||
        die "the two binaries are of different versions: see 'dind --version' of both in $directory"
    for binary in "$directory"/dind-linux-*; do
        ! readelf --program-headers "$binary" | grep -q INTERP ||
            die "$binary is not static: see .cargo/config.toml, which asks for it"
    done
    "$directory/dind-linux-amd64" seccomp >"$directory/dind-seccomp.json"
    [ "$("$ARM64_QEMU" "$directory/dind-linux-arm64" seccomp)" = "$(<"$directory/dind-seccomp.json")" ] ||
        die "the two binaries print different profiles: see 'dind seccomp' of both in $directory"
    dist_sbom >"$directory/dind-sbom.cdx.json"
    (cd "$directory" && sha256sum -- * >SHA256SUMS.part && mv SHA256SUMS.part SHA256SUMS)
    say "$directory:"
    cat "$directory/SHA256SUMS" >&2
}
