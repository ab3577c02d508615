#!/bin/bash
# PID 1 of the virtual machine of vm.sh, and all of the Debian host that there is:
# file systems, cgroups and a network as systemd would set them up, then dockerd.
#
#   init LAYOUT probe    ends at once: the kernel runs
#   init LAYOUT engine   dockerd, on TCP port 2375 and the usual socket
#   init LAYOUT checks   dockerd, after the checks of vm-checks.sh
#
# The console is what the other side reads; a line `== NAME` begins a stage.
set -euo pipefail

CGROUPS=/sys/fs/cgroup

# The hierarchies that systemd mounts together (src/shared/mount-setup.c).
TOGETHER=('cpu,cpuacct' 'net_cls,net_prio')

# mount_cgroup TYPE OPTIONS DIRECTORY
mount_cgroup() {
    mkdir -p "$CGROUPS/$3"
    mount -t "$1" -o "nosuid,nodev,noexec,$2" cgroup "$CGROUPS/$3"
}

layout_v2() { mount_cgroup cgroup2 nsdelegate,memory_recursiveprot .; }

layout_v1() {
    local controller group
    mount -t tmpfs -o nosuid,nodev,noexec,mode=0755 tmpfs $CGROUPS
    "$@"
    mount_cgroup cgroup none,xattr,name=systemd systemd
    # The kernel's list: name, hierarchy, number of cgroups, enabled.
    awk '!/^#/ && $4 == 1 { print $1 }' /proc/cgroups | while read -r controller; do
        for group in "${TOGETHER[@]}" "$controller"; do
            case ,$group, in *",$controller,"*) break ;; esac
        done
        mountpoint -q "$CGROUPS/$group" || mount_cgroup cgroup "$group" "$group"
        [ "$group" = "$controller" ] || ln -s "$group" "$CGROUPS/$controller"
    done
    mount -o remount,ro,nosuid,nodev,noexec,mode=0755 $CGROUPS
}

layout_hybrid() { layout_v1 mount_cgroup cgroup2 nsdelegate unified; }

file_systems() {
    mount -t securityfs securityfs /sys/kernel/security
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o mode=0620,gid=5 devpts /dev/pts
    mount -t tmpfs shm /dev/shm
    mount -t tmpfs -o mode=0755 tmpfs /run
    mount -t tmpfs tmpfs /tmp
    mkdir -p /usr/lib/modules
    mount --bind /lab/modules /usr/lib/modules
    mount --make-rshared /
}

# The addresses are those of qemu's user-mode network.
network() {
    local device
    hostname "$1"
    printf '127.0.0.1 localhost\n10.0.2.15 %s\n' "$1" >/etc/hosts
    echo 'nameserver 10.0.2.3' >/etc/resolv.conf
    ip link set lo up
    # Nobody loads a module for a device that a container is given: /dev/net/tun.
    modprobe -a virtio_pci virtio_net tun
    for device in /sys/class/net/e*; do
        device=${device##*/}
        ip link set "$device" up
        ip address add 10.0.2.15/24 dev "$device"
        ip route add default via 10.0.2.2
    done
}

# An error in there shall not be the end in here.
checks() {
    /lab/checks checks ||
        echo "FAIL the checks come to their end: status $?; the console tells more" | tee -a /lab/results
    printf '%d passed, %d failed\n' "$(grep -c '^ok ' /lab/results)" "$(grep -c '^FAIL ' /lab/results || true)"
    find /run /tmp -mindepth 1 -delete
}

main() {
    local layout=$1 what=$2
    mount -t proc -o nosuid,nodev,noexec proc /proc
    mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
    ln -s /proc/self/fd /dev/fd
    # All that the kernel found to open was a file on the disk.
    exec </dev/null >/dev/console 2>&1
    # However this ends, the machine ends with it: by qemu's -no-reboot.
    trap 'echo b >/proc/sysrq-trigger' EXIT
    if [ "$what" = probe ]; then
        echo 'the kernel has started its init'
        return
    fi
    # The kernel's own lines would break those of the others.
    dmesg -n 1
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root
    file_systems
    "layout_$layout"
    network "$layout"
    printf 'kernel: %s\ncgroups:\n' "$(uname -r)"
    sort /proc/1/cgroup
    if [ "$(cat /sys/module/apparmor/parameters/enabled)" != Y ]; then
        echo 'the kernel has no AppArmor'
        return 1
    fi
    [ "$what" != checks ] || checks
    echo '== dockerd'
    # Without --tls=false it sleeps for 16 s over an address without TLS.
    dockerd --host tcp://0.0.0.0:2375 --host unix:///var/run/docker.sock --tls=false --raw-logs
}

main "$@"
