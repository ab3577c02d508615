//! The program before iptables: what it says against what iptables says, and the rules that come
//! of it against those without it.

use crate::docker::{BUSYBOX, Container, Spec, all, dind};

/// What dockerd asks, with the program's name in the place of `IPT`, and more that is like it. None
/// changes anything in the state that it is asked in.
const CALLS: &[&str] = &[
    "IPT --wait -t nat -F DOCKER-NO",
    "IPT --wait -t nat -X DOCKER-NO",
    "IPT -F DOCKER-NO",
    "IPT --wait -t filter -n -L DOCKER-NO",
    "IPT --wait -t nat -n -L DOCKER-NO",
    "IPT --wait -t filter -n -L DOCKER",
    "IPT --wait -t filter -n -L FORWARD",
    "IPT --wait -t nat -D PREROUTING",
    "IPT --wait -t nat -D OUTPUT",
    "IPT --wait -D FORWARD -i docker9 -o docker9 -j DROP",
    "IPT --wait -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j DOCKER-NO",
    "IPT --wait -t nat -D OUTPUT -m addrtype --dst-type LOCAL ! --dst ADDRESS -j DOCKER-NO",
    "IPT --wait -t nat -C PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "IPT --wait -t nat -C PREROUTING -m addrtype --src-type LOCAL -j DOCKER",
    "IPT --wait -t nat -C OUTPUT -m addrtype --dst-type LOCAL -j DOCKER ! --dst ADDRESS",
    "IPT --wait -t nat -C POSTROUTING -s ADDRESS ! -o docker0 -j MASQUERADE",
    "IPT --wait -t nat -C POSTROUTING -j MASQUERADE",
    "IPT --wait -t nat -C DOCKER -i docker0 -j RETURN",
    "IPT --wait -t filter -C FORWARD -j DOCKER-USER",
    "IPT --wait -t filter -C FORWARD -j DOCKER-NO",
    "IPT --wait -t filter -C FORWARD -j DOCKER",
    "IPT --wait -t filter -C FORWARD -j ACCEPT",
    "IPT --wait -t filter -C FORWARD -i docker0 ! -o docker0 -j ACCEPT",
    "IPT --wait -t filter -C FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "IPT --wait -t filter -C DOCKER-NO -j RETURN",
    "IPT --wait -t filter -C DOCKER ! -i docker0 -o docker0 -j DROP",
    "IPT --wait -t filter -C DOCKER -d ADDRESS -j ACCEPT",
    // What iptables refuses.
    "IPT --wait -t filter -C OUTPUT -i docker0 -j ACCEPT",
    "IPT --wait -t filter -C FORWARD -i a -i b -j ACCEPT",
    "IPT --wait -t filter -C FORWARD -s here -j ACCEPT",
    "IPT --wait -t filter -C FORWARD -j",
    "IPT --wait -t filter -C FORWARD -j NOTHING",
    "IPT --wait -t filter -C FORWARD -m set --match-set no dst -j DOCKER",
    "IPT --wait -t nowhere -F DOCKER",
    "IPT --wait -t filter -F DOCKER-NAMES-ARE-NOT-AS-LONG-AS-THIS",
    "IPT -n",
    "IPT",
    "IPT --version",
];

/// What was there before: nothing; empty chains; a dockerd's; rules that are none of dockerd's; what
/// iptables cannot read.
const STATES: &[&str] = &[
    "",
    "IPT -t nat -N DOCKER; IPT -N DOCKER; IPT -N DOCKER-USER",
    "IPT -t nat -N DOCKER; IPT -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
     IPT -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER ! --dst ADDRESS
     IPT -t nat -A POSTROUTING -s ADDRESS ! -o docker0 -j MASQUERADE
     IPT -t nat -A DOCKER -i docker0 -j RETURN
     IPT -N DOCKER; IPT -N DOCKER-USER; IPT -A DOCKER-USER -j RETURN; IPT -I FORWARD -j DOCKER-USER
     IPT -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
     IPT -A FORWARD -o docker0 -j DOCKER; IPT -A DOCKER ! -i docker0 -o docker0 -j DROP",
    "IPT -P FORWARD DROP; IPT -A FORWARD -i a -j DROP; IPT -A FORWARD -j LOG; IPT -A FORWARD
     IPT -N DOCKER; IPT -N OTHER; IPT -A FORWARD -g OTHER; IPT -A DOCKER -j REJECT",
    "IPT -N DOCKER; nft add rule FAMILY filter DOCKER meta mark 7 queue num 3
     nft add chain FAMILY filter DOCKER-USER; nft add rule FAMILY filter FORWARD counter accept",
];

/// In a network namespace of its own, with the state; then each call of both programs, what it
/// writes where, and its status.
const COMPARE: &str = r#"
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin
    differ=0
    both() {
        words=$(printf '%s' "$1" | sed "s/^IPT\b/$name/; s|ADDRESS|$address|g")
        arguments=${words#"$name"}
        /run/dind-iptables/$name $arguments >/tmp/shortcut.out 2>/tmp/shortcut.err
        echo "status $?" >>/tmp/shortcut.out
        /usr/sbin/$name $arguments >/tmp/real.out 2>/tmp/real.err
        echo "status $?" >>/tmp/real.out
        cmp -s /tmp/shortcut.out /tmp/real.out && cmp -s /tmp/shortcut.err /tmp/real.err && return
        echo "$words"; tail -n 3 /tmp/shortcut.* /tmp/real.*
    }
    for name in iptables ip6tables; do
        case $name in
        iptables) family=ip address=127.0.0.0/8 ;;
        ip6tables) family=ip6 address=::1/128 ;;
        esac
        nft flush ruleset
        eval "$(printf '%s\n' "$state" | sed "s/\bIPT /$name /g; s|ADDRESS|$address|g; s/FAMILY/$family/g")"
        nft list ruleset >/tmp/before 2>/dev/null
        while read -r call; do both "$call"; done </tmp/calls
        nft list ruleset >/tmp/after 2>/dev/null
        # Not the packets of others.
        cmp /tmp/before /tmp/after
    done
"#;

/// Every answer is the one that iptables gives, to the byte, whatever is there; and it changes
/// nothing.
#[test]
fn it_says_what_iptables_says() {
    let container = dind().ready(&[]);
    container.sh(&format!(
        "cat >/tmp/calls <<'END'\n{}\nEND",
        CALLS.join("\n")
    ));
    for state in STATES {
        let script = format!("state='{state}'\n{COMPARE}");
        let differences = container.text(&["unshare", "-n", "bash", "-c", &script]);
        assert_eq!(differences, "", "after: {state}");
    }
}

/// What is not there is answered without iptables, and what is plain is made; iptables is executed
/// for all else. In front of the
/// real one there is a program that says that it was called.
#[test]
fn iptables_is_executed_for_all_else_only() {
    let container = dind().ready(&[]);
    container.sh(
        "printf '#!/bin/sh\necho called\n' >/tmp/called; chmod +x /tmp/called
         ln -sf /tmp/called /run/dind-iptables/real/iptables",
    );
    for (arguments, called) in [
        ("-t nat -F DOCKER-NO", false),
        ("-t filter -n -L DOCKER-NO", false),
        ("-t filter -C DOCKER-USER -i no -j DROP", false),
        (
            "-t nat -C PREROUTING -m addrtype --dst-type LOCAL -j DOCKER-NO",
            false,
        ),
        ("-t nat -F DOCKER", true),
        ("-t filter -n -L DOCKER", true),
        (
            "-t nat -C PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            true,
        ),
        ("-t nat -N DOCKER", true),
        ("-t nat -N DOCKER-NEW", false),
        ("-I DOCKER-USER -i no -j DROP", false),
        ("-I DOCKER-USER -s 10.0.0.1 -j DROP", true),
        ("-D DOCKER-USER -i no -j DROP", true),
        ("--version", true),
        ("", true),
    ] {
        let words = format!("/run/dind-iptables/iptables {arguments}");
        let output = container.exec(&["sh", "-c", &words]);
        assert_eq!(
            output.stdout.trim() == "called",
            called,
            "{arguments}: {output:?}"
        );
    }
}

/// What is made, in this order, in a new network namespace. Some of it cannot be made.
const MAKES: &[&str] = &[
    "IPT -A FORWARD -j ACCEPT",
    "IPT -N DOCKER",
    "IPT -N DOCKER",
    "IPT -t nat -N DOCKER",
    "IPT -t nat -A DOCKER -i docker0 -j RETURN",
    "IPT -N DOCKER-USER",
    "IPT --wait -A DOCKER-USER -j RETURN",
    "IPT --wait -I FORWARD -j DOCKER-USER",
    "IPT --wait -I FORWARD -i docker0 -o docker0 -j ACCEPT",
    "IPT --wait -A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
    "IPT --wait -A DOCKER ! -o br-0123456789ab -j DROP ! -i eth0.100",
    "IPT --wait -I DOCKER -o abcdefghijklmno -j DOCKER-USER",
    "IPT --wait -A DOCKER-NO -j RETURN",
    "IPT --wait -A FORWARD -j DOCKER-NO",
    "IPT --wait -A DOCKER-USER -j DOCKER",
    "IPT --wait -I DOCKER-USER -j DOCKER-USER",
    "IPT --wait -I FORWARD 2 -i a -j DROP",
    "IPT --wait -A DOCKER",
    "IPT --wait -A DOCKER -s ADDRESS -j RETURN",
    "IPT --wait -D FORWARD -j DOCKER-USER",
    "IPT --wait -A FORWARD -j DOCKER-USER",
    "IPT --wait -F DOCKER",
    "IPT --wait -X DOCKER",
];

/// The calls, with what they say, and what there is after them: as both programs show it, and with
/// every expression and its bytes.
const MAKE: &str = r#"
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin
    for name in iptables ip6tables; do
        case $name in
        iptables) address=127.0.0.0/8 ;;
        ip6tables) address=::1/128 ;;
        esac
        while read -r call; do
            words=$(printf '%s' "$call" | sed "s/^IPT\b/$name/; s|ADDRESS|$address|g")
            echo "$words"
            $directory/$words 2>&1
            echo "status $?"
        done </tmp/makes
    done
    # Without the numbers of rules: one that the kernel refuses takes one, too.
    nft --debug=netlink list ruleset 2>&1 | sed -E 's/^(ip6? [a-z]+ [A-Z-]+) [0-9]+( [0-9]+)?$/\1/'
    iptables-save | sed '/^#/d'
    ip6tables-save | sed '/^#/d'
"#;

/// What it makes is what iptables makes, to the byte.
#[test]
fn it_makes_what_iptables_makes() {
    let container = dind().ready(&[]);
    container.sh(&format!(
        "cat >/tmp/makes <<'END'\n{}\nEND",
        MAKES.join("\n")
    ));
    let made = |directory: &str| {
        let script = format!("directory={directory}\n{MAKE}");
        container.text(&["unshare", "-n", "bash", "-c", &script])
    };
    let real = made("/usr/sbin");
    assert!(
        real.contains("-A FORWARD -i docker0 ! -o docker0 -j ACCEPT"),
        "{real}"
    );
    assert_eq!(made("/run/dind-iptables"), real);
}

/// The rules of both backends and families, as every program shows them, without counters.
fn rules(container: &Container) -> String {
    container.sh("for backend in nft legacy; do
            for family in iptables ip6tables; do $family-$backend-save 2>/dev/null; done
        done | sed '/^#/d; s/\\[[0-9]*:[0-9]*\\]//'
        nft list ruleset 2>/dev/null | sed 's/packets [0-9]* bytes [0-9]*//'")
}

/// The rules after each thing that a user does with networks.
fn history(spec: Spec) -> Vec<String> {
    let daemon = spec.ready(&["--ip6tables=true", "--experimental"]);
    let mut found = vec![rules(&daemon)];
    daemon.load_busybox();
    let containers = if all() { 50 } else { 3 };
    daemon.sh(&format!(
        "docker network create --subnet 10.9.0.0/24 --opt com.docker.network.bridge.name=br-a a
         docker network create --internal --subnet 10.8.0.0/24 --ipv6 --subnet fd00:d1d::/64 \
            --opt com.docker.network.bridge.name=br-b b
         for i in $(seq {containers}); do
             docker run -d --restart=always --name c$i --network a --ip 10.9.0.$((i + 9)) \
                 -p $((8000 + i)):80 -p $((9000 + i)):81/udp {BUSYBOX} sleep 1000
         done
         docker network connect --ip 10.8.0.9 b c1"
    ));
    found.push(rules(&daemon));
    daemon.sh("docker network disconnect b c1; docker network rm b; docker rm -f c2");
    found.push(rules(&daemon));
    daemon.docker(&["restart"]).exited(0);
    daemon.wait_ready_times(2);
    let started = containers - 1;
    daemon.wait_until(&format!("[ $(docker ps --quiet | wc -l) = {started} ]"));
    daemon.sh("docker rm -f c1 c3");
    // dockerd starts the others again side by side, so the order of their rules is a matter of chance.
    let last = rules(&daemon);
    let mut last: Vec<&str> = last.lines().collect();
    last.sort_unstable();
    found.push(last.join("\n"));
    found
}

/// The rules are the same with and without it, to the byte, after everything that a user does.
#[test]
fn the_rules_are_the_same_without_it() {
    for legacy in ["", "1"] {
        let spec = || dind().env("DOCKER_IPTABLES_LEGACY", legacy);
        let with = history(spec());
        let without = history(spec().env("DIND_IPTABLES_SHORTCUT", "off"));
        assert!(
            with.iter().all(|rules| rules.contains("DOCKER")),
            "{with:?}"
        );
        for (place, (with, without)) in with.iter().zip(&without).enumerate() {
            assert_eq!(with, without, "legacy={legacy:?}, place {place}");
        }
    }
}

/// Where dockerd finds iptables.
fn found(container: &Container) -> String {
    let path = container.sh("tr '\\0' '\\n' </proc/$(pgrep -x dockerd)/environ | grep ^PATH=");
    path.split(['=', ':']).nth(1).unwrap_or_default().to_owned()
}

/// dockerd alone has it in its PATH, and a program of the user's is not passed over.
#[test]
fn dockerd_alone_finds_it() {
    let shortcut = "/run/dind-iptables";
    let container = dind().ready(&[]);
    assert_eq!(found(&container), shortcut);
    let path = "tr '\\0' '\\n' </proc/$(pgrep -x containerd)/environ | grep ^PATH=";
    assert!(!container.sh(path).contains(shortcut));
    let own = "printf '#!/bin/sh\nexec /usr/sbin/iptables \"$@\"\n' >/usr/local/bin/iptables
        chmod +x /usr/local/bin/iptables";
    for spec in [
        dind().prelude(own),
        dind().env("DIND_IPTABLES_SHORTCUT", "off"),
        dind().env("DOCKER_IPTABLES_LEGACY", "1"),
        dind().flags(["--tmpfs", "/run"]),
    ] {
        assert_ne!(found(&spec.ready(&[])), shortcut);
    }
}
