#!/bin/sh
# Prints what dind's plans rest on where this runs: after `== PATH` the text of that
# file, and after `== observed` what is not the text of a file. It changes nothing. In
# a container in dind's place:
#
#   docker run --rm --privileged --entrypoint sh dind -c "$(cat tests/lab.d/facts.sh)"
set -eu

for path in \
    /proc/version /proc/1/cgroup /proc/self/cgroup /proc/self/mountinfo \
    /proc/self/attr/current /proc/self/status /proc/self/uid_map /proc/self/oom_score_adj \
    /proc/cgroups /proc/filesystems /proc/misc \
    /proc/net/route /proc/net/ipv6_route /proc/net/if_inet6 \
    /proc/net/ip_tables_names /proc/net/ip6_tables_names /proc/net/arp_tables_names \
    /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/disable_ipv6 \
    /sys/class/net/*/mtu \
    /sys/fs/cgroup/cgroup.controllers /sys/fs/cgroup/cgroup.subtree_control \
    /sys/fs/cgroup/cgroup.type /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max \
    /sys/kernel/security/lsm /sys/module/apparmor/parameters/enabled \
    /etc/resolv.conf /etc/hostname /etc/hosts; do
    # Some may not be read in spite of their mode.
    ! text=$(cat "$path" 2>/dev/null) || printf '== %s\n%s\n' "$path" "$text"
done

echo '== observed'
for path in /sys/fs/cgroup /var/lib/docker; do
    # The magic number of statfs(2), hexadecimal.
    echo "statfs $path $(stat -f -c %t $path 2>/dev/null || echo missing)"
done
for path in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/kernel/security /tmp \
    /var/lib/dind/images; do
    [ -d $path ] || continue
    echo "directory $path"
    for entry in "$path"/* "$path"/.[!.]*; do
        if [ -L "$entry" ]; then
            echo "link $entry $(readlink "$entry")"
        elif [ -e "$entry" ]; then
            echo "entry $entry"
        fi
    done
done
for name in dockerd containerd dmsetup bash; do
    ! path=$(command -v $name) || echo "program $name $path"
done
sed -n 's/^docker:[^:]*:\([0-9]*\):.*/group docker \1/p' /etc/group
