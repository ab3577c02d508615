# shellcheck shell=bash
# The engine lives in the host's network namespace, so that published ports are
# reached on 127.0.0.1. What it changes there is recorded first, in $LAB_NET, and
# put back from the record alone: the engine may have been killed by then.

LAB_BRIDGE=dindlab0
LAB_NET=$LAB_RUN/net

# A command of the engine's root filesystem, on the host's network.
in_rootfs() { chroot "$LAB_ROOTFS" "$@"; }

# Two bytes of a network of ours that no route of this machine leads to.
network_choose() {
    local net
    for net in 10.213 10.87 172.29 10.151 192.168; do
        # `root` finds the routes inside of it, `match` the ones around it.
        if [ -z "$(ip -4 route show table all root "$net.0.0/16")" ] &&
            ! ip -4 route show table all match "$net.0.0/16" | grep -qv '^default'; then
            echo "$net"
            return
        fi
    done
    die "'ip route' leads to every network that the lab could use: drop one of these routes, or set DOCKER_HOST to an engine that can run privileged containers"
}

# The MTU of the way out. A bridge with a larger one loses big packets where
# somebody on the way drops ICMP.
network_mtu() {
    local device
    device=$(ip -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p;q')
    cat "/sys/class/net/$device/mtu" 2>/dev/null || echo 1500
}

# Forwarding and its kin, as "file value". dockerd switches them on.
network_sysctls() {
    local file
    for file in /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv[46]/conf/*/forwarding \
        /proc/sys/net/bridge/bridge-nf-call-*; do
        [ ! -e "$file" ] || printf '%s %s\n' "$file" "$(<"$file")"
    done
}

network_bridges() { ip -o link show type bridge | sed 's/^[0-9]*: \([^:@]*\).*/\1/'; }

network_up() {
    local backend=legacy net
    mkdir -p "$LAB_NET"
    # nf_tables first: to ask iptables-legacy makes the kernel load its tables.
    ! in_rootfs iptables-nft -w -nL >/dev/null 2>&1 || backend=nft
    net=$(network_choose)

    network_sysctls >"$LAB_NET/sysctls"
    network_bridges >"$LAB_NET/bridges"
    in_rootfs "iptables-$backend-save" >"$LAB_NET/iptables"
    in_rootfs "ip6tables-$backend-save" >"$LAB_NET/ip6tables"
    [ $backend = legacy ] || in_rootfs nft list tables >"$LAB_NET/tables"
    echo "$net" >"$LAB_NET/net"
    # Last: it says that the record is whole, and that there may be work to undo.
    echo $backend >"$LAB_NET/backend"

    ip link add "$LAB_BRIDGE" type bridge
    ip addr add "$net.0.1/24" dev "$LAB_BRIDGE"
    ip link set "$LAB_BRIDGE" up
}

# network_rules COMMAND RECORD: takes away the rules, chains and policies that are
# ours and that RECORD, of COMMAND-save before `up`, does not have. One restore a
# table, so that a table is clean or as it was.
network_rules() {
    local command=$1 record=$2
    in_rootfs "$command-save" |
        awk -v record="$record" -v bridge="$LAB_BRIDGE" -v net="$(<"$LAB_NET/net")" '
            function table_ends() {
                if (program flush) print "*" table "\n" program flush remove "COMMIT"
                program = flush = remove = ""
            }
            BEGIN {
                gsub(/[.]/, "[.]", net)
                ours = "-j DOCKER|-[io] (" bridge "|br-[0-9a-f]+) |-[sd] " net "[.]"
                while ((getline line < record) > 0) {
                    split(line, word, " ")
                    if (line ~ /^[*]/) table = line
                    else if (line ~ /^:/) policy[table, word[1]] = word[2]
                    else before[table, line] = 1
                }
            }
            /^[*]/ { table = substr($0, 2) }
            /^:/ && $2 == "-" && /^:DOCKER/ && !(("*" table, $1) in policy) {
                flush = flush "-F " substr($1, 2) "\n"
                remove = remove "-X " substr($1, 2) "\n"
                gone[table, substr($1, 2)] = 1
            }
            /^:/ && $2 != "-" {
                was = ("*" table, $1) in policy ? policy["*" table, $1] : "ACCEPT"
                if ($2 != was) program = program $1 " " was "\n"
            }
            /^-A/ && !(("*" table, $0) in before) && !((table, $2) in gone) {
                # A container that reaches itself by its published port.
                hairpin = $3 == "-s" && $5 == "-d" && $4 == $6 && / -j MASQUERADE/
                if (hairpin || $0 " " ~ ours) program = program "-D" substr($0, 3) "\n"
            }
            /^COMMIT/ { table_ends() }' |
        in_rootfs "$command-restore" --noflush ||
        say "$command: some chains of the engine stay; see '$command-save | grep DOCKER'"
}

# Whether the table that `nft list table` prints holds nothing but base chains.
network_table_empty() {
    awk '/^table / || /^\t*}$/ || /^$/ { next }
        /^\tchain / { chains++; next }
        /type .* hook / { chains--; next }
        { rules++ }
        END { exit rules || chains }'
}

network_sysctls_restore() {
    local file value
    while read -r file value; do
        [ ! -e "$file" ] || [ "$(<"$file")" = "$value" ] || echo "$value" >"$file"
    done <"$LAB_NET/sysctls"
}

network_clean() {
    local backend device port family table
    if [ ! -e "$LAB_NET/backend" ]; then
        rm -rf "$LAB_NET"
        return
    fi
    backend=$(<"$LAB_NET/backend")

    while read -r device; do
        # Ports go with the engine's namespaces, but in the kernel's own time.
        ip -o link show master "$device" | sed 's/^[0-9]*: \([^:@]*\).*/\1/' |
            while read -r port; do
                ip link delete "$port" 2>/dev/null || true
            done
        ip link delete "$device"
    done < <(network_bridges | grep -Ex "$LAB_BRIDGE|br-[0-9a-f]{12}" | grep -Fxv -f "$LAB_NET/bridges")

    if [ -x "$LAB_ROOTFS/usr/sbin/xtables-nft-multi" ]; then
        network_rules "iptables-$backend" "$LAB_NET/iptables"
        network_rules "ip6tables-$backend" "$LAB_NET/ip6tables"
        if [ "$backend" = nft ]; then
            # iptables-nft makes tables as it needs them, and leaves them.
            while read -r _ family table; do
                ! in_rootfs nft list table "$family" "$table" 2>/dev/null | network_table_empty ||
                    in_rootfs nft delete table "$family" "$table"
            done < <(in_rootfs nft list tables | grep -Fxv -f "$LAB_NET/tables")
        fi
    else
        say "$LAB_ROOTFS is gone, and the engine's iptables with it: the chains DOCKER* stay until the next boot"
    fi

    # Twice: ip_forward and conf/all overwrite every other file.
    network_sysctls_restore
    network_sysctls_restore
    rm -rf "$LAB_NET"
}
