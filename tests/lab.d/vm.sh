# shellcheck shell=bash
# Virtual machines: a Debian host with its own kernel for each cgroup layout, and a
# Docker engine in it. Most users have cgroup v2, and the machine that runs the tests
# need not have it; nor may tests lay hands on hierarchies that somebody else lives in.
#
# A machine has two disks. The large one is the image under test as its root file
# system, with that image and busybox in its engine; it is kept for as long as the
# image is the same. It has a podman with the image, too, beside the root file system:
# vm-podman.sh puts that over /usr where it is wanted. The small one is made anew for
# every machine, and has the init, the kernel's modules and the checks. Neither is written
# to: qemu throws away what a machine changes.

VM_CACHE=$LAB_CACHE/vm
VM_LAYOUTS=(v2 v1 hybrid)
VM_IMAGE=dind:latest
# The machine of `tests/lab vm`.
VM_KEPT=$VM_CACHE/kept
# The console of the last machine, after its end.
VM_CONSOLE=$VM_CACHE/console.log
# A volume in the machine's engine with images for the containers in it.
VM_IMAGES=dind-lab-images
# Against hanging. A minute is usual where the processor is emulated, and other work
# beside it makes several of one.
VM_READY_SECONDS=600
VM_CHECKS_SECONDS=1800
VM_KVM_SECONDS=20

# known_layout COMMAND LAYOUT
known_layout() {
    case $2 in
    v2 | v1 | hybrid) ;;
    *) usage_error "$1: no layout '$2': use v2, v1 or hybrid" ;;
    esac
}

# trixie's kernel has no memory and cpuset controllers for version 1 any more
# (CONFIG_MEMCG_V1, CONFIG_CPUSETS_V1); bookworm's has them.
vm_suite() {
    case $1 in
    v2) echo trixie ;;
    v1 | hybrid) echo bookworm ;;
    esac
}

# The cloud kernel is built for virtual machines: it has NVMe and ext4 built
# in, so that it finds its root file system without an initial ramdisk. Nothing of it
# is installed anywhere: a package is unpacked in a container.
vm_kernel_recipe() {
    cat <<TEXT
FROM debian:trixie-slim
WORKDIR /kernel
RUN apt-get update && apt-get install -y --no-install-recommends kmod
RUN find /etc/apt -name '*.list' -o -name '*.sources' | xargs sed -i 's/trixie/$1/g' \\
    && apt-get update \\
    && package=\$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/^ *Depends: //p" | head -n 1) \\
    && cd /tmp \\
    && apt-get download -o APT::Sandbox::User=root "\${package:?linux-image-cloud-amd64 names no kernel}" \\
    && dpkg-deb -x linux-image-*.deb . \\
    && mv boot/vmlinuz-* /kernel/vmlinuz \\
    && mkdir -p /tmp/usr/lib \\
    && if [ -d lib/modules ]; then mv lib/modules usr/lib/; fi \\
    && depmod -b /tmp/usr "\$(ls usr/lib/modules)" \\
    && mv usr/lib/modules /kernel/
TEXT
}

# Has the kernel of SUITE in $VM_CACHE/kernel-SUITE: vmlinuz, and modules.
vm_kernel() {
    local suite=$1 kernel=$VM_CACHE/kernel-$1 image=dind-lab/kernel:$1 recipe container
    recipe=$(vm_kernel_recipe "$suite")
    [ "$(cat "$kernel.recipe" 2>/dev/null)" != "$recipe" ] || return 0
    say "taking the kernel for virtual machines of Debian $suite out of its package (35 MB, once)"
    docker_build --tag "$image" - <<<"$recipe"
    rm -rf --one-file-system "$kernel.part" "$kernel" "$kernel.recipe"
    mkdir -p "$kernel.part"
    container=$(docker create "$image")
    docker cp "$container:/kernel/." "$kernel.part"
    docker rm "$container" >/dev/null
    [ -s "$kernel.part/vmlinuz" ] ||
        die "the package of linux-image-cloud-amd64 has no kernel in boot/: see 'docker run --rm $image find /kernel'"
    mv -T "$kernel.part" "$kernel"
    echo "$recipe" >"$kernel.recipe"
}

# Which of two disks becomes nvme0n1 is decided anew at every boot, since the kernel
# looks at both at once (6.11, drivers/nvme/host/core.c: nvme_scan_ns_list). So the
# large one has a partition table, and is known by its identifier.
VM_DISK_ID=64696e64

# The first program on the large disk; the rest is on the small one, which is the one
# that has its file system at its beginning.
VM_INIT='#!/bin/sh
mount -t devtmpfs dev /dev
mount -t ext4 /dev/nvme0n1 /lab 2>/dev/null || mount -t ext4 /dev/nvme0n2 /lab
exec /lab/init "$@"'

# In a container of the image: gives its engine the images, with which standard input
# comes as dind.tar and busybox.tar.
# shellcheck disable=SC2016 # the container's shell fills these in
VM_FILL='set -e
docker volume create "$1" >/dev/null
cd "$(docker volume inspect --format "{{.Mountpoint}}" "$1")"
tar -x
docker load --quiet --input dind.tar
docker load --quiet --input busybox.tar'

# Podman as users of Debian have it: a container of this image fills the volume with the
# image from standard input, and with podman itself; and so once more for the user visitor,
# who is not root. `podman load` would take the image for one of the OCI's, and those have no
# HEALTHCHECK.
VM_PODMAN_IMAGE=dind-lab/podman:latest
VM_PODMAN_RECIPE='FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends crun netavark nftables podman uidmap \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --uid 2000 visitor
CMD cat >/tmp/dind.tar \
    && podman pull --quiet docker-archive:/tmp/dind.tar \
    && install -d -o visitor -g visitor /tmp/visitor /var/lib/containers/visitor \
    && chmod 0644 /tmp/dind.tar \
    && setpriv --reuid visitor --regid visitor --clear-groups \
        env HOME=/tmp/visitor XDG_RUNTIME_DIR=/tmp/visitor \
        podman --root /var/lib/containers/visitor pull --quiet docker-archive:/tmp/dind.tar \
    && cp -a /usr /etc /var/lib/containers/'

# In a container of the image, with these volumes: writes the disk, with nothing in it of
# what is mounted, and room for the partition table.
# shellcheck disable=SC2016
VM_DISK='set -e
rm -f /.dockerenv
mkdir /lab
printf "%s\n" "$1" >/sbin/init
chmod 0755 /sbin/init
mount --bind / /mnt
mkdir -p /mnt/var/lib/containers
mount --bind /var/lib/docker /mnt/var/lib/docker
mount --bind /var/lib/containers /mnt/var/lib/containers
mkfs.ext4 -q -F -O ^has_journal -E offset=1048576 -d /mnt /disk/machine.img 16G >&2
tar -c --sparse -C /disk machine.img'

# Has the large disk in $VM_CACHE/machine.img.
vm_machine() {
    local disk=$VM_CACHE/machine.img volume=dind-lab-machine podman=dind-lab-machine-podman recipe
    recipe="$(docker image inspect --format '{{.Id}}' "$VM_IMAGE" "$BUSYBOX_IMAGE") $VM_DISK_ID $VM_INIT $VM_FILL $VM_PODMAN_RECIPE $VM_DISK"
    [ "$(cat "$disk.recipe" 2>/dev/null)" != "$recipe" ] || return 0
    say "making the virtual machines' disk from $VM_IMAGE (3 GB, once for an image)"
    rm -rf --one-file-system "$disk" "$disk.recipe" "$disk.part"
    mkdir -p "$disk.part"
    docker_build --tag "$VM_PODMAN_IMAGE" - <<<"$VM_PODMAN_RECIPE"
    docker volume rm --force "$volume" "$podman" >/dev/null
    docker volume create "$volume" >/dev/null
    docker volume create "$podman" >/dev/null
    docker save --output "$disk.part/dind.tar" "$VM_IMAGE"
    cp "$BUSYBOX_TAR" "$disk.part/busybox.tar"
    tar -c -C "$disk.part" dind.tar busybox.tar |
        docker run --rm --interactive --privileged --volume "$volume:/var/lib/docker" \
            --env LOG=file --env DOCKER_TLS_CERTDIR= "$VM_IMAGE" sh -c "$VM_FILL" fill "$VM_IMAGES" >&2
    docker run --rm --interactive --privileged --volume "$podman:/var/lib/containers" \
        "$VM_PODMAN_IMAGE" <"$disk.part/dind.tar" >&2
    docker run --rm --privileged --volume "$volume:/var/lib/docker" --volume "$podman:/var/lib/containers" \
        --volume /disk --entrypoint sh \
        "$VM_IMAGE" -c "$VM_DISK" disk "$VM_INIT" | tar -x -C "$disk.part"
    docker volume rm "$volume" "$podman" >/dev/null
    sfdisk --quiet --wipe-partitions never "$disk.part/machine.img" <<TEXT
label: dos
label-id: 0x$VM_DISK_ID
start=1MiB, type=83
TEXT
    mv "$disk.part/machine.img" "$disk"
    rm -rf --one-file-system "$disk.part"
    echo "$recipe" >"$disk.recipe"
}

# vm_disk DIRECTORY LAYOUT [NAMESPACE-TESTS]: makes the small disk.
vm_disk() {
    local directory=$1 layout=$2 tests=${3-} root=$LAB_SCRATCH/vm
    mkdir -p "$root"
    cp -a "$VM_CACHE/kernel-$(vm_suite "$layout")/modules" "$root/modules"
    install -m 0755 "$LAB_TOP/tests/lab.d/vm-init.sh" "$root/init"
    install -m 0755 "$LAB_TOP/tests/lab.d/vm-checks.sh" "$root/checks"
    cp "$LAB_TOP/tests/lab.d/vm-podman.sh" "$root/podman"
    # For every user: one is root of a user namespace.
    install -m 0644 "$BUSYBOX_TAR" "$root/busybox.tar"
    [ -z "$tests" ] || cp "$tests" "$root/namespace"
    truncate -s 3G "$directory/lab.img"
    mkfs.ext4 -q -F -O ^has_journal -d "$root" "$directory/lab.img" >&2 ||
        die "mkfs.ext4 could not make $directory/lab.img: see above, mind the space left ('df -h $LAB_CACHE'), try again"
    rm -rf --one-file-system "$root"
}

# From the look at what there is until a machine has it open: one at a time.
vm_lock() {
    mkdir -p "$VM_CACHE"
    exec {VM_LOCK_FD}>"$VM_CACHE/lock"
    flock -n "$VM_LOCK_FD" && return
    say "waiting for another tests/lab that prepares a virtual machine"
    flock -w 1800 "$VM_LOCK_FD" ||
        die "$VM_CACHE/lock is held for 30 minutes: see 'fuser -v $VM_CACHE/lock', end that process, try again"
}

vm_unlock() { exec {VM_LOCK_FD}>&-; }

# vm_prepare LAYOUT: has everything that is made once.
vm_prepare() {
    [ "$(uname -m)" = x86_64 ] ||
        die "the virtual machines have x86_64 kernels, and this machine is $(uname -m): run them on x86_64"
    need_root
    need_tool qemu-system-x86_64 qemu-system-x86
    need_tool mkfs.ext4 e2fsprogs
    need_tool sfdisk fdisk
    # A machine is a slow place to build images in.
    [ "${DOCKER_HOST-}" != "tcp://127.0.0.1:$(cat "$VM_KEPT/port" 2>/dev/null)" ] || unset DOCKER_HOST
    engine_use
    down_if_started
    busybox_image
    build_image trixie
    scratch
    vm_kernel "$(vm_suite "$1")"
    vm_machine
}

# A port of 127.0.0.1 that nobody listens on.
vm_port() {
    local port
    for ((port = 23750; port < 23850; port++)); do
        if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo $port
            return
        fi
    done
    die "every port from 23750 to 23849 of 127.0.0.1 is in use: see 'ss -ltnp', end some of them"
}

# vm_start DIRECTORY LAYOUT ROLE WRAPPER...
# Starts qemu as the last of WRAPPER's arguments, and does not wait. In DIRECTORY are
# the machine's disk and what is to be known of it: layout, port, pid, console.log;
# `alive` is locked for as long as it lives. ROLE is the init's.
vm_start() {
    local directory=$1 layout=$2 role=$3
    shift 3
    echo "$layout" >"$directory/layout"
    vm_port >"$directory/port"
    : >"$directory/console.log"
    VM_SEEN=0
    (
        exec 3>"$directory/alive"
        flock -n 3
        drop_descriptors 3
        # For what the machine writes to its disks.
        export TMPDIR=$directory
        # A panic reboots, and a reboot is the end (-no-reboot). Protection against
        # hostile programs would only cost time here.
        exec "$@" qemu-system-x86_64 "${VM_ACCELERATOR[@]}" -smp 2 -m 3G \
            -nodefaults -no-user-config -display none -no-reboot -serial "file:$directory/console.log" \
            -device nvme,serial=disk,id=disk \
            -drive "file=$VM_CACHE/machine.img,if=none,id=machine,format=raw,snapshot=on,cache=unsafe" \
            -device nvme-ns,bus=disk,drive=machine,nsid=1 \
            -drive "file=$directory/lab.img,if=none,id=lab,format=raw,snapshot=on,cache=unsafe" \
            -device nvme-ns,bus=disk,drive=lab,nsid=2 \
            -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$(<"$directory/port")-:2375" \
            -device virtio-net-pci,netdev=net \
            -kernel "$VM_CACHE/kernel-$(vm_suite "$layout")/vmlinuz" \
            -append "console=ttyS0 quiet panic=-1 mitigations=off apparmor=1 security=apparmor root=PARTUUID=$VM_DISK_ID-01 rootfstype=ext4 rootflags=noinit_itable rw init=/sbin/init -- $layout $role"
    ) </dev/null >"$directory/qemu.log" 2>&1 &
    echo $! >"$directory/pid"
    # Or the shell would tell of its end.
    disown
}

# vm_watch DIRECTORY SECONDS PATTERN: shows what of the console is for people
# (stages, results, logs of what failed) until a line matches PATTERN, a regular
# expression; the next call goes on behind that line. Fails where it does not come:
# the machine has ended, or is slow.
vm_watch() {
    local directory=$1 seconds=$2 pattern=$3 console line found=1
    exec {console}< <(exec timeout "$seconds" tail -n "+$((VM_SEEN + 1))" -f --pid="$(<"$directory/pid")" "$directory/console.log")
    while IFS= read -r line <&"$console"; do
        line=${line%$'\r'}
        VM_SEEN=$((VM_SEEN + 1))
        case $line in
        '== '*) say "vm: ${line#== } (after $SECONDS s)" ;;
        'ok '* | 'FAIL '* | '| '*) printf '%s\n' "$line" ;;
        esac
        if [[ $line =~ $pattern ]]; then
            found=0
            break
        fi
    done
    kill $! 2>/dev/null || true
    exec {console}<&-
    return $found
}

vm_alive() { [ -e "$1/alive" ] && ! flock -n "$1/alive" true; }

# vm_stop DIRECTORY: the machine loses its power; its console is kept.
vm_stop() {
    local directory=$1 pid
    vm_alive "$directory" || return 0
    pid=$(<"$directory/pid")
    cp "$directory/console.log" "$VM_CONSOLE"
    kill -TERM "$pid" || true
    flock -w 20 "$directory/alive" true && return
    kill -KILL "$pid" || true
    flock -w 10 "$directory/alive" true ||
        die "qemu (pid $pid) cannot be killed: see 'cat /proc/$pid/stack', try again"
}

# Sets VM_ACCELERATOR. /dev/kvm may be there and not run this kernel, so only a boot
# shows whether it does.
vm_accelerator() {
    local directory=$1 layout=$2 why='there is no /dev/kvm to write to'
    VM_ACCELERATOR=(-accel kvm -cpu host)
    if [ -w /dev/kvm ]; then
        vm_start "$directory" "$layout" probe timeout --foreground --kill-after 5 "$VM_KVM_SECONDS"
        ! vm_watch "$directory" "$VM_KVM_SECONDS" '^the kernel has started its init' || return 0
        cp "$directory/qemu.log" "$VM_CACHE/kvm.log"
        why="/dev/kvm does not run Debian's kernel (see $VM_CACHE/kvm.log)"
        vm_stop "$directory"
    fi
    say "$why: the processor is emulated, and slow"
    VM_ACCELERATOR=(-accel "tcg,thread=multi" -cpu max)
}

# vm_ready DIRECTORY SECONDS: waits for the machine's engine.
vm_ready() {
    local directory=$1 seconds=$2
    if vm_watch "$directory" "$seconds" 'API listen on .*:2375'; then
        DOCKER_HOST=tcp://127.0.0.1:$(<"$directory/port")
        export DOCKER_HOST
        return
    fi
    cp "$directory/console.log" "$VM_CONSOLE"
    tail -n 40 "$VM_CONSOLE" "$directory/qemu.log" >&2
    vm_stop "$directory"
    die "the virtual machine has no engine after $SECONDS s (of $seconds): the end of its console is above, all of it in $VM_CONSOLE"
}

lab_vm() {
    local layout=${1-} directory=$VM_KEPT
    [ $# -eq 1 ] || usage_error "vm: takes one argument: v2, v1, hybrid or down"
    if [ "$layout" = down ]; then
        vm_down
        return
    fi
    known_layout vm "$layout"
    vm_lock
    if vm_alive "$directory"; then
        [ "$(<"$directory/layout")" = "$layout" ] ||
            die "a machine with $(<"$directory/layout") runs, and there is one at a time: stop it with 'tests/lab vm down', try again"
        SECONDS=0
        VM_SEEN=0
    else
        vm_prepare "$layout"
        rm -rf --one-file-system "$directory"
        mkdir -p "$directory"
        vm_disk "$directory" "$layout"
        vm_accelerator "$directory" "$layout"
        say "booting (console: $directory/console.log)"
        SECONDS=0
        vm_start "$directory" "$layout" engine setsid
    fi
    vm_unlock
    vm_ready "$directory" "$VM_READY_SECONDS"
    printf 'export DOCKER_HOST=%s\n' "$DOCKER_HOST"
}

vm_down() {
    [ -e "$VM_KEPT" ] || return 0
    ! vm_alive "$VM_KEPT" || say "stopping the virtual machine ($(<"$VM_KEPT/layout"))"
    vm_stop "$VM_KEPT"
    rm -rf --one-file-system "$VM_KEPT"
}

# End-to-end tests of what depends on the host, as filters of the test program's. On
# version 2 the checks in the machine have seen the limits already, from outside.
vm_tests() {
    printf '%s\n' host:: storage::xfs_without_types storage::nfs_has rootless_limits:: \
        rootless_flags::the_line_of_the_doctor rootless_outside::a_profile_of_apparmor
    case $1 in
    v2) ;;
    v1 | hybrid)
        printf '%s\n' limits::limits_are limits::a_memory_limit limits::hierarchies_are limits::read_only \
            nesting::three_levels
        ;;
    esac
    # Minutes under emulation, so it is left to `vm-test all`.
    [ "$1" != v1 ] || printf '%s\n' storage::an_image_grows warm_start_files::a_file_on_nfs
}

# Those that look at all of the host, beside which no other may run. On version 2 podman's checks in the
# machine have looked, and this is left to `vm-test all`: minutes under emulation.
vm_tests_alone() {
    case $1 in
    v2) ;;
    v1 | hybrid) echo rootless_outside::nothing_outside ;;
    esac
}

# test_program NAME: builds a test program, and prints its path.
test_program() {
    cargo test --no-run --locked --test "$1" --message-format=json-render-diagnostics |
        sed -n "/\"name\":\"$1\"/s/.*\"executable\":\"\\([^\"]*\\)\".*/\\1/p" | grep . ||
        die "cargo made no test program $1: see 'cargo test --no-run --test $1', try again"
}

lab_vm_test() {
    local layout=${1-v2}
    [ $# -le 1 ] || usage_error "vm-test: takes one argument, not '$2'"
    [ "$layout" = all ] || known_layout vm-test "$layout"
    case $layout in
    all) vm_test_all ;;
    *) vm_test "$layout" ;;
    esac
}

# A failure on one layout shall not hide what the others do.
vm_test_all() {
    local layout
    local -a failed=()
    for layout in "${VM_LAYOUTS[@]}"; do
        "$LAB_SELF" vm-test "$layout" || failed+=("$layout")
    done
    [ ${#failed[@]} -eq 0 ] || die "dind fails on: ${failed[*]}"
}

vm_test() {
    local layout=$1 directory role=engine namespace='' e2e filter status=0
    local -a filters alone
    need_cargo
    say "building the tests"
    e2e=$(test_program e2e)
    if [ "$layout" = v2 ]; then
        role=checks
        namespace=$(test_program namespace)
    fi
    mapfile -t filters < <(vm_tests "$layout")
    mapfile -t alone < <(vm_tests_alone "$layout")
    for filter in "${filters[@]}" "${alone[@]}"; do
        [ -n "$("$e2e" --list --format terse "$filter")" ] ||
            die "no end-to-end test is named $filter...: correct vm_tests in tests/lab.d/vm.sh"
    done
    vm_lock
    vm_prepare "$layout"
    # At once: another cargo may replace them.
    cp "$e2e" "$LAB_SCRATCH/e2e"
    directory=$LAB_SCRATCH/machine
    mkdir -p "$directory"
    vm_disk "$directory" "$layout" "$namespace"
    vm_accelerator "$directory" "$layout"
    say "booting $layout (console: $directory/console.log)"
    SECONDS=0
    # It ends with this shell.
    vm_start "$directory" "$layout" $role setpriv --pdeathsig TERM
    vm_unlock
    if [ $role = checks ]; then
        vm_watch "$directory" "$VM_CHECKS_SECONDS" '^[0-9]+ passed, [0-9]+ failed' || true
        vm_checked "$directory/console.log" || status=1
    fi
    vm_ready "$directory" "$VM_READY_SECONDS"
    say "vm: end-to-end tests (after $SECONDS s)"
    export DIND_LAB_IMAGE=$VM_IMAGE DIND_LAB_BUSYBOX=$BUSYBOX_TAR DIND_LAB_IMAGES=$VM_IMAGES
    export DIND_LAB_DEADLINE=$VM_CHECKS_SECONDS
    # Without a filter it would run all tests.
    [ ${#alone[@]} -eq 0 ] ||
        "$LAB_SCRATCH/e2e" --include-ignored --test-threads 1 "${alone[@]}" || status=1
    "$LAB_SCRATCH/e2e" --include-ignored --test-threads 2 "${filters[@]}" || status=1
    say "the virtual machine took $SECONDS s"
    vm_stop "$directory"
    [ $status -eq 0 ] || die "dind fails on a host with cgroups as in $layout: see above, and $VM_CONSOLE for the rest"
}

# vm_checked CONSOLE: prints the verdict of the checks in the machine, if there is one.
vm_checked() {
    local verdict
    verdict=$(sed -n '/^[0-9]* passed, [0-9]* failed/p' "$1")
    printf '%s\n' "${verdict:-no verdict}"
    case $verdict in
    '' | '0 '*) false ;;
    *' 0 failed'*) ;;
    *) false ;;
    esac
}
