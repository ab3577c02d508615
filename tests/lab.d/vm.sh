# shellcheck shell=bash
# A virtual machine with Debian's own kernel and the image as its root file
# system. Most users have cgroup v2, and this machine need not have it; nor may
# tests of it lay hands on the root of a hierarchy that somebody else lives in.

VM_CACHE=$LAB_CACHE/vm
# One boot with all checks takes some four minutes where the processor is emulated.
VM_SECONDS=900
VM_KVM_SECONDS=20

# The kernel for cloud machines is built for virtual ones: it has NVMe and ext4
# built in, so that it finds its root file system without an initial ramdisk. The
# suite is the image's, for its packages are what runs on it. Nothing of this is
# installed anywhere: a package is unpacked in a container.
# shellcheck disable=SC2016 # the container's shell fills these in
VM_KERNEL_RECIPE='FROM debian:trixie-slim
WORKDIR /kernel
RUN apt-get update \
    && apt-get install -y --no-install-recommends kmod \
    && package=$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/^ *Depends: //p" | head -n 1) \
    && cd /tmp \
    && apt-get download -o APT::Sandbox::User=root "${package:?linux-image-cloud-amd64 names no kernel}" \
    && dpkg-deb -x linux-image-*.deb . \
    && mkdir -p /kernel/usr/lib \
    && mv boot/vmlinuz-* /kernel/vmlinuz \
    && mv usr/lib/modules /kernel/usr/lib/ \
    && depmod -b /kernel/usr "$(ls /kernel/usr/lib/modules)"'

# Has the kernel in $VM_CACHE/kernel: vmlinuz, and usr/lib/modules.
vm_kernel() {
    local kernel=$VM_CACHE/kernel image=dind-lab/kernel container
    [ "$(cat "$kernel.recipe" 2>/dev/null)" != "$VM_KERNEL_RECIPE" ] || return 0
    say "taking Debian's kernel for virtual machines out of its package (35 MB, once)"
    docker_build --tag "$image" - <<<"$VM_KERNEL_RECIPE"
    rm -rf --one-file-system "$kernel.part" "$kernel" "$kernel.recipe"
    mkdir -p "$kernel.part"
    container=$(docker create "$image")
    docker cp "$container:/kernel/." "$kernel.part"
    docker rm "$container" >/dev/null
    [ -s "$kernel.part/vmlinuz" ] ||
        die "the package of linux-image-cloud-amd64 has no kernel in boot/: see 'docker run --rm $image find /kernel'"
    mv -T "$kernel.part" "$kernel"
    echo "$VM_KERNEL_RECIPE" >"$kernel.recipe"
}

# vm_disk FILE: an ext4 file system with the image, the kernel's modules, and in
# /lab what the checks need.
vm_disk() {
    local disk=$1 root=$LAB_SCRATCH/vm container namespace
    mkdir -p "$root"/{lab/log,usr/lib/modules}
    say "building the namespace tests"
    namespace=$(cargo test --no-run --locked --test namespace --message-format=json-render-diagnostics |
        sed -n '/"name":"namespace"/s/.*"executable":"\([^"]*\)".*/\1/p')
    # At once: another cargo may replace it.
    cp "${namespace:-no executable}" "$root/lab/namespace" ||
        die "cargo made no test executable: see 'cargo test --no-run --test namespace', try again"

    say "making the virtual machine's disk from dind:latest"
    container=$(docker create dind:latest)
    docker export "$container" | tar -x -C "$root" --numeric-owner
    docker rm --volumes "$container" >/dev/null
    cp -a "$VM_CACHE/kernel/usr/lib/modules/." "$root/usr/lib/modules/"
    cp "$BUSYBOX_TAR" "$root/lab/busybox.tar"
    install -m 0755 "$LAB_TOP/tests/lab.d/vm-init.sh" "$root/lab/init"
    # It lives for one boot, so it needs no journal.
    truncate -s 3G "$disk"
    mkfs.ext4 -q -F -O ^has_journal -d "$root" "$disk" >&2 ||
        die "mkfs.ext4 could not make $disk: see above, mind the space left ('df -h $LAB_CACHE'), try again"
    rm -rf --one-file-system "$root"
}

# vm_boot SECONDS DISK OPTION... -- ARGUMENT...
# Becomes qemu, with the serial console as stdout; the words after -- are the
# init's. To be called in a process substitution, whose parent is this shell:
# the machine ends by itself, at the deadline, or with the shell.
vm_boot() {
    local seconds=$1 disk=$2
    shift 2
    local -a options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    # A panic reboots, and a reboot is the end (-no-reboot). Protection against
    # hostile programs would only cost time here.
    exec setpriv --pdeathsig TERM timeout --foreground --kill-after 5 "$seconds" \
        qemu-system-x86_64 "${options[@]}" -smp 2 -m 2G \
        -nodefaults -no-user-config -display none -no-reboot -serial stdio \
        -drive "file=$disk,if=none,id=disk,format=raw,cache=unsafe" -device nvme,drive=disk,serial=disk \
        -kernel "$VM_CACHE/kernel/vmlinuz" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off root=/dev/nvme0n1 rootfstype=ext4 rootflags=noinit_itable rw init=/lab/init -- boot $*" \
        </dev/null 2>&1
}

# vm_watch FILE: keeps the console, which it reads, in FILE, and shows of it what is
# for people: stages, results, and the logs of what failed.
vm_watch() {
    local line
    while IFS= read -r line; do
        line=${line%$'\r'}
        printf '%s\n' "$line" >&3
        case $line in
        '== '*) say "vm: ${line#== } (after $SECONDS s)" ;;
        'ok '* | 'FAIL '* | '| '*) printf '%s\n' "$line" ;;
        esac
    done 3>"$1"
}

# vm_accelerator DISK: sets VM_ACCELERATOR. /dev/kvm may be there and not run this
# kernel, so only a boot shows whether it does.
vm_accelerator() {
    local disk=$1 log=$VM_CACHE/kvm.log why='there is no /dev/kvm to write to'
    VM_ACCELERATOR=(-accel kvm -cpu host)
    if [ -w /dev/kvm ]; then
        vm_watch "$log" < <(vm_boot "$VM_KVM_SECONDS" "$disk" "${VM_ACCELERATOR[@]}" -snapshot -- probe)
        ! grep -q '^the kernel has started its init' "$log" || return 0
        why="/dev/kvm does not run Debian's kernel (see $log)"
    fi
    say "$why: the processor is emulated, which takes some four minutes"
    VM_ACCELERATOR=(-accel "tcg,thread=multi" -cpu max)
}

lab_vm_test() {
    local disk console=$VM_CACHE/console.log verdict
    [ $# -eq 0 ] || usage_error "vm-test: takes no argument, not '$1'"
    [ "$(uname -m)" = x86_64 ] ||
        die "vm-test boots an x86_64 kernel, and this machine is $(uname -m): run it on x86_64"
    need_root
    need_tool qemu-system-x86_64 qemu-system-x86
    need_tool mkfs.ext4 e2fsprogs
    engine_use
    down_if_started
    busybox_image
    build_image trixie
    need_cargo
    scratch
    mkdir -p "$VM_CACHE"
    vm_kernel
    disk=$LAB_SCRATCH/vm.img
    vm_disk "$disk"
    vm_accelerator "$disk"

    say "booting (console: $console)"
    SECONDS=0
    vm_watch "$console" < <(vm_boot "$VM_SECONDS" "$disk" "${VM_ACCELERATOR[@]}" -- checks)
    # Whatever qemu's status is: without the last line not all was checked.
    verdict=$(sed -n '/^[0-9]* passed, [0-9]* failed$/p' "$console")
    if [ -z "$verdict" ]; then
        tail -n 40 "$console" >&2
        die "the virtual machine ended after $SECONDS s (of $VM_SECONDS) without a verdict: the end of $console is above"
    fi
    printf '%s\n' "$verdict"
    case $verdict in
    '0 '*) die "the virtual machine checked nothing: see $console" ;;
    *' 0 failed') say "the virtual machine took $SECONDS s" ;;
    *) die "dind fails on cgroup v2: see the FAIL lines above, and $console for the rest" ;;
    esac
}
