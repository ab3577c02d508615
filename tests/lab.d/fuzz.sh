# shellcheck shell=bash
# The fuzz targets of tests/fuzz, one after another. What they find out lasts: the
# corpus is kept in the cache, and begins with what real hosts show.

LAB_FUZZ=$LAB_CACHE/fuzz

need_nightly() {
    cargo +nightly --version >/dev/null 2>&1 ||
        die "no nightly toolchain, which fuzzing needs: rustup toolchain install nightly --profile minimal"
    need_tool c++ g++
    cargo +nightly fuzz --version >/dev/null 2>&1 && return
    say "installing cargo-fuzz"
    cargo install --quiet --locked cargo-fuzz || die "cargo-fuzz cannot be installed: see above"
}

# fuzz_section FILE NAME: the text after `== NAME` in a file of facts.
fuzz_section() {
    awk -v "name=$2" '/^== / { on = ($0 == "== " name); next } on' "$1"
}

# The sections that a plan follows from; a target is the faster the smaller its inputs are.
fuzz_plan_facts() {
    awk '/^== / {
            on = ($0 ~ /^== (\/proc\/self\/(mountinfo|cgroup)|\/proc\/net\/(route|ip_tables_names)|\/sys\/class\/net\/eth0\/mtu|\/sys\/fs\/cgroup\/cgroup\.(controllers|subtree_control)|\/sys\/module\/apparmor\/parameters\/enabled|\/etc\/(resolv\.conf|hostname)|observed)$/)
        } on' "$1"
}

# The facts of tests/fixtures as inputs, and the few that are in no file of a host.
fuzz_seeds() {
    local facts name target
    for target in "$LAB_TOP"/tests/fuzz/seeds/*/; do
        name=$(basename "$target")
        mkdir -p "$LAB_FUZZ/seeds/$name"
        cp "$target"* "$LAB_FUZZ/seeds/$name"
    done
    mkdir -p "$LAB_FUZZ"/seeds/{mountinfo,cgroup,network,plan}
    for facts in "$LAB_TOP"/tests/fixtures/*/*.facts; do
        name=${facts#"$LAB_TOP/tests/fixtures/"}
        name=${name//\//-}
        fuzz_section "$facts" /proc/self/mountinfo >"$LAB_FUZZ/seeds/mountinfo/$name"
        fuzz_section "$facts" /proc/self/cgroup >"$LAB_FUZZ/seeds/cgroup/$name"
        {
            fuzz_section "$facts" /proc/net/route
            echo '=='
            fuzz_section "$facts" /etc/resolv.conf
        } >"$LAB_FUZZ/seeds/network/$name"
        fuzz_plan_facts "$facts" >"$LAB_FUZZ/seeds/plan/$name"
    done
    mkdir -p "$LAB_FUZZ/seeds/bolt"
    cp "$LAB_TOP"/tests/fixtures/store/*.db "$LAB_FUZZ/seeds/bolt"
    fuzz_certificates
}

# fuzz_der FILE...: each with its length in two bytes before it.
fuzz_der() {
    local file size
    for file; do
        size=$(stat -c %s "$file")
        # shellcheck disable=SC2059 # the format is what is printed
        printf "$(printf '\\x%02x\\x%02x' $((size / 256)) $((size % 256)))"
        cat "$file"
    done
}

# Certificates and keys of OpenSSL's making, of each kind that is read, and those of this
# machine's authorities, which are the most various that there are.
fuzz_certificates() {
    local made=$LAB_FUZZ/openssl seeds=$LAB_FUZZ/seeds key kind name
    [ ! -e "$made/done" ] || return 0
    rm -rf "$made"
    mkdir -p "$made" "$seeds"/{certificate,private_key,tls_files}
    for key in rsa:2048 ec:prime256v1 ec:secp384r1 ed25519; do
        name=$made/${key//:/-}
        case $key in
        rsa:*) openssl genrsa -traditional -out "$name.key" "${key#rsa:}" ;;
        ec:*) openssl ecparam -genkey -noout -name "${key#ec:}" -out "$name.key" ;;
        *) openssl genpkey -algorithm "$key" -out "$name.key" ;;
        esac
        openssl pkcs8 -topk8 -nocrypt -in "$name.key" -out "$name.pkcs8"
        openssl pkey -in "$name.key" -outform der -out "$seeds/private_key/${name##*/}"
        openssl pkcs8 -topk8 -nocrypt -in "$name.key" -outform der -out "$seeds/private_key/${name##*/}-pkcs8"
        cp "$name.key" "$seeds/private_key/${name##*/}-pem"
        openssl req -x509 -new -key "$name.key" -subj '/CN=fuzz CA' -days 3650 \
            -addext keyUsage=critical,keyCertSign -out "$name.ca"
        openssl req -new -key "$name.key" -subj /CN=fuzz |
            openssl x509 -req -CA "$name.ca" -CAkey "$name.key" -days 3650 -out "$name.leaf" \
                -extfile <(echo 'subjectAltName=DNS:docker,IP:10.0.0.1,IP:::1,email:a@b,URI:https://a/
extendedKeyUsage=serverAuth,clientAuth')
        for kind in ca leaf; do
            openssl x509 -in "$name.$kind" -outform der -out "$name.$kind.der"
        done
        fuzz_der "$name.leaf.der" "$name.ca.der" >"$seeds/certificate/${name##*/}"
        {
            for kind in server client; do
                echo "== $kind/ca.pem" && cat "$name.ca"
                echo "== $kind/cert.pem" && cat "$name.leaf"
                echo "== $kind/key.pem" && cat "$name.pkcs8"
            done
        } >"$seeds/tls_files/${name##*/}-users"
        {
            cat "$seeds/tls_files/${name##*/}-users"
            echo "== ca/cert.pem" && cat "$name.ca"
            echo "== ca/key.pem" && cat "$name.key"
        } >"$seeds/tls_files/${name##*/}-managed"
    done
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
        csplit --quiet --elide-empty-files --prefix="$made/authority-" \
            /etc/ssl/certs/ca-certificates.crt '/-BEGIN CERTIFICATE-/' '{*}'
        for name in "$made"/authority-*; do
            openssl x509 -in "$name" -outform der -out "$name.der"
            fuzz_der "$name.der" >"$seeds/certificate/${name##*/}"
        done
    fi
    touch "$made/done"
}

lab_fuzz() {
    local seconds=${1-300} target
    local -a targets
    [ $# -le 1 ] || usage_error "fuzz: takes one argument, not '$2'"
    [[ $seconds =~ ^[1-9][0-9]*$ ]] || usage_error "fuzz: '$seconds' is no number of seconds"
    need_cargo
    need_nightly
    cd "$LAB_TOP/tests/fuzz" || exit
    say "building the fuzz targets"
    # RUSTFLAGS, which cargo-fuzz sets, come in the place of those of .cargo/config.toml, so
    # the targets are linked dynamically, as AddressSanitizer needs it.
    cargo +nightly fuzz build --fuzz-dir . --target-dir "$LAB_FUZZ/target" >&2 ||
        die "the fuzz targets cannot be built: see above"
    fuzz_seeds
    mapfile -t targets < <(cargo +nightly fuzz list --fuzz-dir .)
    for target in "${targets[@]}"; do
        fuzz_target "$target" "$seconds"
    done
    say "${#targets[@]} targets, $seconds s each: no crash"
}

# fuzz_target NAME SECONDS: prints runs, runs a second, and edges covered.
fuzz_target() {
    local target=$1 seconds=$2 log=$LAB_FUZZ/$1.log crash found
    local binary
    binary=$(find "$LAB_FUZZ/target" -path "*/release/$target" -type f | head -n 1)
    mkdir -p "$LAB_FUZZ/corpus/$target" "$LAB_FUZZ/seeds/$target" "$LAB_FUZZ/crashes"
    if ! "$binary" "$LAB_FUZZ/corpus/$target" "$LAB_FUZZ/seeds/$target" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$LAB_FUZZ/crashes/$target-" >"$log" 2>&1; then
        grep -E 'panicked at|ERROR: |SUMMARY: ' -A 1 "$log" | head -n 8 >&2 || true
        crash=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        die "$target: crashes on ${crash:-an input that was not written, see $log}"
    fi
    found=$(sed -n 's/.*\(cov: [0-9]* ft: [0-9]* corp: [^ ]*\).*/\1/p' "$log" | tail -n 1)
    say "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs," \
        "$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log") a second, $found"
}
