# shellcheck shell=bash
# A shell in dind, its tests, its benchmarks.

# Stops the engine at the end, if this run has started it.
down_if_started() {
    # shellcheck disable=SC2034 # lab_exit reads it
    [ -z "${LAB_STARTED-}" ] || LAB_DOWN_AT_EXIT=1
}

# Builds the binary and the images, and exports their names for the test programs.
lab_environment() {
    local suite=$1
    engine_use
    down_if_started
    busybox_image
    build_image "$suite"
    need_cargo
    say "building the binary"
    # The path comes from cargo: .cargo/config.toml and the environment may both
    # move the target directory.
    DIND_LAB_BINARY=$(cargo build --release --locked --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    [ -n "$DIND_LAB_BINARY" ] || die "cargo build --release made no binary: see 'cargo build --release'"
    [ "$suite" = trixie ] && DIND_LAB_IMAGE=dind:latest || DIND_LAB_IMAGE=dind:$suite
    DIND_LAB_BUSYBOX=$BUSYBOX_TAR
    export DIND_LAB_BINARY DIND_LAB_BUSYBOX DIND_LAB_IMAGE
}

need_cargo() {
    command -v cargo >/dev/null ||
        die "cargo is not in PATH: install a Rust toolchain (rustup.rs), try again"
    need_tool cc gcc
    # Binaries are linked statically, so the archives must be there, too.
    need_file "$(cc -print-file-name=libc.a)" libc6-dev
    # tests/tls verifies certificates with it.
    need_tool openssl openssl
    cd "$LAB_TOP" || exit
}

# Builds the Rust client of tests/clients. With --target, the static linking of
# .cargo/config.toml does not apply to procedural macros, which cannot be static.
bollard_client() {
    local target
    target=$(rustc -vV | sed -n 's/^host: //p')
    say "building the bollard client"
    (
        cd "$LAB_TOP/tests/clients/bollard"
        CARGO_TARGET_DIR=$LAB_CACHE/bollard cargo build --quiet --locked --target "$target" >&2
    ) || die "the bollard client cannot be built: see 'cargo build' in tests/clients/bollard"
    DIND_LAB_BOLLARD=$LAB_CACHE/bollard/$target/debug/bollard-client
}

lab_run() {
    local -a options=(--privileged --interactive --rm)
    [ ! -t 0 ] || options+=(--tty)
    engine_use
    down_if_started
    build_image trixie
    docker run "${options[@]}" dind:latest "$@"
}

# The end-to-end tests of what depends on where the engine keeps images, and in the same files
# those that do not: terminals, signals, statuses, counts. A new test is none of these.
STORE_TESTS=(
    commit:: crash:: data_root:: images:: nest:: nesting:: restart:: soak:: storage:: stores::
    warm_starts::what_a_command_has_made warm_starts::a_save_goes_on fleet::
    store_use::a_container_of_a_stored_image store_use::a_data_root_is_detached
    store_use::the_commands_of_every_day
    stop::a_stop_in_the_middle_of_an_image stop::a_stop_with
    --skip fleet::steps_that_no_saving_job_uses_expire
    --skip rootless_stores::a_store_is_of
    --skip rootless_stores::a_store_is_used
    --skip rootless_stores::an_ordinary
    --skip rootless_stores::one_file
    --skip crash::a_command_keeps_its_daemon
    --skip crash::the_number_of_restarts_in_a_row_is_limited
    --skip crash::there_is_no_restart_where_it_is_of_no_use
    --skip nest::a_signal_reaches_the_innermost
    --skip nest::a_stop_ends_all_levels_in_order
    --skip nest::a_terminal_reaches_the_innermost
    --skip nest::bad_words_are_refused
    --skip nesting::a_stop_with_an_engine_inside_is_in_time
    # docker:dind-rootless has a daemon.json elsewhere, and so another image store.
    --skip rootless_storage::a_volume_goes_back_and_forth
)

lab_test() {
    local suite='' rootless=''
    while [ $# -gt 0 ]; do
        case $1 in
        --suite)
            [ $# -ge 2 ] || usage_error "test: --suite needs bookworm, trixie, forky or forky-containerd"
            suite=$2
            shift
            ;;
        --suite=*) suite=${1#--suite=} ;;
        --all) export DIND_LAB_ALL=1 ;;
        --rootless) rootless=1 ;;
        *) break ;;
        esac
        shift
    done
    known_suite test "${suite:-trixie}"
    if [ -n "$rootless" ]; then
        known_tests ROOTLESS_TESTS "${ROOTLESS_TESTS[@]}"
        rootless_tests "${suite:-trixie}" "$@"
        return
    fi
    test_suite "${suite:-trixie}" "$@"
    [ -z "$suite" ] && [ $# -eq 0 ] || return 0
    say "the tests of images, storage and restarts with containerd's image store"
    known_tests STORE_TESTS "${STORE_TESTS[@]}"
    test_suite forky-containerd --test e2e -- "${STORE_TESTS[@]}"
    known_tests ROOTLESS_TESTS "${ROOTLESS_TESTS[@]}"
    [ -n "${DIND_LAB_ALL-}" ] || return 0
    say "the tests of what is the same without privileges"
    rootless_tests trixie
}

# rootless_tests SUITE [ARG...]: dind, in the tests, is one without privileges.
rootless_tests() {
    local suite=$1
    shift
    [ $# -gt 0 ] || set -- --test e2e -- "${ROOTLESS_TESTS[@]}"
    DIND_LAB_ROOTLESS_MODE=1 test_suite "$suite" "$@"
}

# The end-to-end tests of what is the same where the engine runs in a user namespace. Those that are
# skipped are of what README names as not the same, make files as root of the container, look for
# files that only the engine's namespaces have, or take every process named dind for PID 1's own.
ROOTLESS_TESTS=(
    crash:: data_root:: health:: orphans:: pause:: stop::
    --skip crash::inner_containers_live_on_with_live_restore
    --skip data_root::an_ephemeral_data_root_is_empty_at_the_end
    --skip data_root::an_ephemeral_data_root_may_be_deeper
    --skip health::a_daemon_that_answers_is_healthy
    --skip health::a_daemon_without_its_containerd
    --skip orphans::it_works_without_being_pid_1
    --skip stop::sigusr1_dumps_the_daemons_stacks
)

# known_tests NAME WORD...: a name that no test has would leave one out, or run one for nothing.
known_tests() {
    local name=$1 word tests
    shift
    tests=$(cargo test --quiet --locked --test e2e -- --list --format terse)
    for word; do
        [ "$word" = --skip ] || grep -q "^$word" <<<"$tests" ||
            die "no end-to-end test is named $word...: correct $name in tests/lab.d/cargo.sh"
    done
}

# test_suite SUITE [ARG...]: ARG... goes to cargo test.
test_suite() {
    local suite=$1
    shift
    lab_environment "$suite"
    rootless_peer_image "$suite"
    clients_image
    upstream_image
    engine_images
    strace_image "$DIND_LAB_IMAGE" "$suite"
    tools_image
    bollard_client
    arm64_binary
    export DIND_LAB_CLIENTS=$CLIENTS_IMAGE DIND_LAB_STRACE=$STRACE_IMAGE
    export DIND_LAB_TOOLS=$TOOLS_IMAGE DIND_LAB_BOLLARD DIND_LAB_UPSTREAM=$UPSTREAM_IMAGE
    export DIND_LAB_ROOTLESS=$ROOTLESS_IMAGE DIND_LAB_ROOTLESS_PEER=$ROOTLESS_PEER_IMAGE
    export DIND_LAB_ENGINES=$ENGINE_IMAGES
    # Every end-to-end test starts its own daemons, and some wait for what takes its time.
    export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 1))}
    cargo test --locked "$@"
}

lab_bench() {
    local subject=--figures suite peer=
    case ${1-} in
    --peer)
        subject=$1 peer=${2-}
        [ -n "$peer" ] || usage_error "bench: --peer needs an image, or stand-in"
        shift 2
        ;;
    --deep | --timeline | --cold | --images | --scale | --store | --store-file | --crowd | --rootless)
        subject=$1
        shift
        ;;
    -*) usage_error "bench: no option '$1'; 'tests/lab help' lists them" ;;
    esac
    suite=${1-trixie}
    [ $# -le 1 ] || usage_error "bench: takes one suite, not '$2' too"
    known_suite bench "$suite"
    lab_environment "$suite"
    case $subject in
    --peer)
        peer_image "$peer" "$suite"
        export DIND_LAB_PEER=$PEER_IMAGE
        ;;
    --rootless)
        rootless_peer_image "$suite"
        export DIND_LAB_ROOTLESS_PEER=$ROOTLESS_PEER_IMAGE
        ;;
    --store-file)
        formats_image "$DIND_LAB_IMAGE" "$suite"
        export DIND_LAB_FORMATS=$FORMATS_IMAGE
        ;;
    --timeline)
        strace_image "$DIND_LAB_IMAGE" "$suite"
        export DIND_LAB_STRACE=$STRACE_IMAGE
        ;;
    esac
    cargo bench --locked --bench bench -- "$subject" "$suite"
}

lab_soak() {
    local kills=100 seed=
    while [ $# -gt 0 ]; do
        case $1 in
        --kills | --seed)
            [[ ${2-} =~ ^[0-9]+$ ]] || usage_error "soak: $1 needs a number"
            [ "$1" = --kills ] && kills=$2 || seed=$2
            shift
            ;;
        *) usage_error "soak: takes --kills N and --seed N, not '$1'" ;;
        esac
        shift
    done
    lab_environment trixie
    export DIND_LAB_SOAK_KILLS=$kills DIND_LAB_SOAK_SEED=$seed
    cargo test --locked --test e2e -- --exact --nocapture soak::a_kill_loses_nothing_that_was_acknowledged ||
        die "acknowledged data was lost, or an engine did not start: see above"
    cargo test --locked --test e2e -- --exact --nocapture soak_stores::a_kill_leaves_a_store_as_it_was ||
        die "a store was damaged, or an engine did not start from it: see above"
}
