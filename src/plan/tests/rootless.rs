//! Plans of an engine in a user namespace.

use super::*;
use crate::messages::fault::USAGE;
use crate::plan::mode;

const ROOTLESS: Start<'_> = Start {
    rootless: true,
    ..DAEMON
};

fn actions(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|step| step.action.to_string()).collect()
}

/// What changes the container's mounts and cgroups is inside or is not done: outside this process may
/// only give things away.
#[test]
fn outside_nothing_is_mounted() -> Result<(), Fault> {
    for facts in [bare_v1(), unified("0::/\n")] {
        let plan = ROOTLESS.plan(&facts)?;
        let own = actions(&plan.steps);
        let expected = [
            "lock /var/lib/docker",
            "chown 1000 /var/lib/docker",
            "chown 1000 /var/run/docker.sock",
            "chmod 0666 /dev/net/tun",
            "chown 1000 /root",
            "mkdir -p -m 0755 /etc/docker",
        ];
        assert_eq!(own, expected, "{plan}");
        let engine = ROOTLESS.engine(&facts)?;
        assert!(engine.meanwhile.is_empty() && engine.dmsetup.is_none());
        let namespaces = engine
            .namespaces
            .map(|namespaces| actions(&namespaces.steps));
        let inside = namespaces.unwrap_or_default();
        let expected = [
            "cover /run with a tmpfs of links to what is in it",
            "cover /etc/docker with a tmpfs of links to what is in it",
            "mount --make-rshared /",
            "mkdir -p -m 0755 /run/dind/ports",
            "ln -s /usr/local/bin/dind /run/dind/ports/rootlesskit-docker-proxy",
            "mkdir -p -m 0711 /var/run/docker/containerd",
            "write /var/run/docker/containerd/containerd.toml",
        ];
        assert_eq!(
            inside.get(..7),
            Some(&expected.map(str::to_owned)[..]),
            "{plan}"
        );
        assert!(
            plan.to_string()
                .contains("uid_map 0 1000 1, 1 100000 65536"),
            "{plan}"
        );
    }
    Ok(())
}

#[test]
fn the_daemon_is_told_and_the_ends_of_the_network_agree() -> Result<(), Fault> {
    let facts = Facts {
        networks: Networks {
            default_network_opt: true,
            ..Networks::default()
        },
        ..bare_v1()
    };
    for (value, mtu) in [("", "21885"), ("1400", "1400"), ("off", "1500")] {
        let start = Start {
            variables: &[("DIND_MTU", value)],
            ..ROOTLESS
        };
        let engine = start.engine(&facts)?;
        let words = |program: &Program| -> Vec<String> {
            let words = program.arguments.iter();
            words
                .map(|word| word.to_string_lossy().into_owned())
                .collect()
        };
        let dockerd = words(&engine.dockerd);
        assert!(dockerd.contains(&"--rootless".into()), "{dockerd:?}");
        let given = dockerd.contains(&format!("--mtu={mtu}"));
        assert_eq!(given, value != "off", "{dockerd:?}");
        let network = engine.user_network.as_ref();
        let network = network.map(|connector| words(&connector.program));
        let network = network.unwrap_or_default();
        assert!(network.contains(&format!("--mtu={mtu}")), "{network:?}");
        assert!(
            network.contains(&"--cidr=10.0.2.0/24".into()),
            "{network:?}"
        );
    }
    Ok(())
}

/// Resolvers on loopback, and those of IPv6, are asked from outside, by a forwarder with an address in a
/// network in which no route of this container is.
#[test]
fn resolvers_that_are_out_of_reach_are_asked_from_outside() -> Result<(), Fault> {
    let networks = |resolvers: &[&str]| Networks {
        resolvers: resolvers.iter().flat_map(|text| text.parse()).collect(),
        resolver_options: vec!["ndots:0".into(), "edns0".into()],
        search_domains: vec!["example.org".into(), "two_words".into()],
        routes: vec![Route {
            interface: "eth0".into(),
            network: Network {
                address: [10, 0, 2, 0].into(),
                prefix: 24,
            },
        }],
        ..Networks::default()
    };
    let others = "search example.org two_words\noptions edns0\n";
    for (resolvers, asked, expected) in [
        (&["127.0.0.11"][..], &["127.0.0.11"][..], &["10.0.3.3"][..]),
        (
            &["192.0.2.1", "127.0.0.7", "127.0.0.53", "::1"],
            &["127.0.0.7", "127.0.0.53", "::1"],
            &["192.0.2.1", "10.0.3.3"],
        ),
        (&["2001:db8::53"], &["2001:db8::53"], &["10.0.3.3"]),
        (&["192.0.2.1", "192.0.2.2"], &[], &[]),
        (&[], &[], &[]),
    ] {
        let mut facts = bare_v1();
        facts.networks = networks(resolvers);
        let engine = ROOTLESS.engine(&facts)?;
        let asks = |engine: &Engine| -> Vec<String> {
            let upstreams = engine.forwarder.iter().flat_map(|found| &found.upstreams);
            upstreams.map(ToString::to_string).collect()
        };
        assert_eq!(asks(&engine), asked, "{resolvers:?}");
        let (mut listening, mut steps) = (None, Vec::new());
        if let Some(namespaces) = engine.namespaces {
            (listening, steps) = (namespaces.resolver, namespaces.steps);
        }
        let listens = (!asked.is_empty()).then(|| [10, 0, 3, 3].into());
        assert_eq!(listening, listens, "{resolvers:?}");
        let text = steps.into_iter().find_map(|step| match step.action {
            Action::Write { path, content } if path.ends_with("resolv.conf") => Some(content),
            _ => None,
        });
        let servers: String = expected
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        let expected = (!expected.is_empty()).then(|| servers + others);
        assert_eq!(text, expected, "{resolvers:?}");
        let off = Start {
            variables: &[("DIND_DNS", "off")],
            ..ROOTLESS
        };
        let engine = off.engine(&facts)?;
        assert_eq!(asks(&engine), [""; 0], "{resolvers:?}");
        assert_eq!(engine.namespaces.and_then(|found| found.resolver), None);
    }
    Ok(())
}

/// A tmpfs for the data is mounted where the daemons are, and no ext4 image is.
#[test]
fn storage_is_what_a_user_namespace_has() -> Result<(), Fault> {
    let mut facts = bare_v1();
    let start = Start {
        variables: &[("DIND_STORAGE", "tmpfs")],
        ..ROOTLESS
    };
    facts.data_root.means = Some(means());
    let plan = start.plan(&facts)?;
    let mounts = |steps: &[Step]| {
        let actions = actions(steps).into_iter();
        actions
            .filter(|action| action.starts_with("mount -t tmpfs"))
            .count()
    };
    assert_eq!(mounts(&plan.steps), 0, "{plan}");
    let namespaces = start.engine(&facts)?.namespaces;
    assert_eq!(
        namespaces.map(|found| mounts(&found.steps)),
        Some(1),
        "{plan}"
    );
    facts.data_root.filesystem = Filesystem::Unsuitable("overlay");
    let engine = ROOTLESS.engine(&facts)?;
    assert_eq!(engine.data_file, None);
    let driver = engine.dockerd.arguments.iter();
    let mut named = driver.filter(|word| word.to_string_lossy().starts_with("--storage-driver="));
    assert!(named.next().is_some(), "{:?}", engine.dockerd.arguments);
    Ok(())
}

/// Means with which an engine with privileges makes an ext4 image.
fn means() -> Means {
    Means {
        occupied: false,
        vfs: false,
        data_file: "/var/lib/docker/dind.ext4".into(),
        made: false,
        free: 1 << 40,
        taken: 0,
        grows: false,
        mkfs: Some("/sbin/mkfs.ext4".into()),
        loop_devices: true,
        fuse_overlayfs: false,
        zfs: false,
    }
}

/// dockerd is told where it asks for ports and finds the program for it, has an ordinary user's paths
/// then, and is given the usual ones. Nobody else is.
#[test]
fn dockerd_alone_is_told_where_it_asks_for_ports() -> Result<(), Fault> {
    let start = Start {
        variables: &[
            ("PATH", "/bin"),
            ("XDG_RUNTIME_DIR", "/elsewhere"),
            ("DIND_IPTABLES_SHORTCUT", "off"),
        ],
        ..ROOTLESS
    };
    let engine = start.engine(&bare_v1())?;
    let value = |program: &Program, name: &str| -> Vec<String> {
        let variables = program.environment.iter();
        let found = variables.filter(|(found, _)| found == name);
        found
            .map(|(_, value)| value.to_string_lossy().into_owned())
            .collect()
    };
    let Some(containerd) = engine.containerd else {
        panic!("no containerd");
    };
    for (name, dockerds, others) in [
        ("PATH", &["/run/dind/ports:/bin"][..], &["/bin"][..]),
        ("ROOTLESSKIT_STATE_DIR", &["/run/dind/ports"], &[]),
        ("XDG_RUNTIME_DIR", &["/run"], &["/elsewhere"]),
        ("XDG_CONFIG_HOME", &["/etc"], &[]),
        ("XDG_DATA_HOME", &["/var/lib"], &[]),
    ] {
        assert_eq!(value(&engine.dockerd, name), dockerds, "{name}");
        assert_eq!(value(&containerd, name), others, "{name}");
        let privileged = Start {
            rootless: false,
            ..start
        };
        assert_eq!(
            value(&privileged.engine(&bare_v1())?.dockerd, name),
            others,
            "{name}"
        );
    }
    let address = engine.namespaces.map(|found| found.ports.address);
    assert_eq!(address, Some([10, 0, 2, 100].into()));
    Ok(())
}

/// The addresses of the sockets of a start, and dockerd's arguments.
fn sockets(start: &Start<'_>) -> Result<(Vec<String>, Vec<String>), Fault> {
    let engine = start.engine(&bare_v1())?;
    let addresses = engine.listeners.iter().map(ToString::to_string).collect();
    let arguments = engine.dockerd.arguments.iter();
    let arguments = arguments.map(|word| word.to_string_lossy().into_owned());
    Ok((addresses, arguments.collect()))
}

/// dockerd would bind them in its own network namespace.
#[test]
fn addresses_of_dockerds_own_are_bound_outside() -> Result<(), Fault> {
    let usual = "unix:///var/run/docker.sock";
    for (arguments, expected) in [
        (
            &[
                "dind",
                "dockerd",
                "-H",
                "tcp://:1",
                "-H",
                "unix:///own.sock",
            ][..],
            &["unix:///own.sock", "tcp://127.0.0.1:1"][..],
        ),
        (
            &["dind", "dockerd", "--host=127.0.0.1:1", "--tlsverify"],
            &["tcp://127.0.0.1:1 (TLS)"],
        ),
        (
            &["dind", "-H", "unix:///own.sock", "-H", "tcp://0.0.0.0:2375"],
            &[usual, "unix:///own.sock", "tcp://0.0.0.0:2375"],
        ),
        (&["dind", "-H", usual], &[usual, "tcp://0.0.0.0:2375"]),
    ] {
        let start = Start {
            arguments,
            ..ROOTLESS
        };
        let (addresses, words) = sockets(&start)?;
        assert_eq!(addresses, expected, "{arguments:?}");
        let hosts = words.iter().filter(|word| word.contains("://"));
        assert_eq!(hosts.collect::<Vec<_>>(), ["fd://"], "{words:?}");
    }
    // With the container's rights they are dockerd's.
    let start = Start {
        arguments: &["dind", "dockerd", "-H", "tcp://:1"],
        ..DAEMON
    };
    assert_eq!(sockets(&start)?.0, Vec::<String>::new());
    // The files for TLS are the user's, as with a dockerd that binds its addresses itself.
    let start = Start {
        arguments: &["dind", "dockerd", "-H", "tcp://:1"],
        variables: &[("DOCKER_TLS_CERTDIR", "/certs")],
        ..ROOTLESS
    };
    let (addresses, words) = sockets(&start)?;
    assert_eq!(addresses, ["tcp://127.0.0.1:1"]);
    assert!(!words.iter().any(|word| word.contains("tls")), "{words:?}");
    Ok(())
}

#[test]
fn addresses_that_cannot_be_bound_outside_are_refused() {
    for (address, json) in [
        ("tcp://[::1]:1", ""),
        ("tcp://name:1", ""),
        ("tcp://127.0.0.1", ""),
        ("tcp://:0", ""),
        ("vsock://1:1", ""),
        ("tcp://:1", r#"{"hosts": ["tcp://:1"]}"#),
    ] {
        let start = Start {
            arguments: match json {
                "" => &["dind", "dockerd", "-H", address],
                _ => &["dind", "dockerd"],
            },
            json,
            ..ROOTLESS
        };
        let fault = start.fault(&bare_v1());
        assert_eq!(fault.status, USAGE);
        assert!(fault.message.contains(address), "{fault}");
    }
}

/// `-p`, by which users of docker:dind-rootless and of moby's script have the API on TCP.
#[test]
fn a_port_of_the_api_that_rootlesskit_would_publish_is_served() -> Result<(), Fault> {
    const FLAGS: &str = "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS";
    let usual = "unix:///var/run/docker.sock";
    let tls = ("DOCKER_TLS_CERTDIR", "/certs");
    for (flags, expected, warned) in [
        // As in docker:dind-rootless' script: it is served anyway.
        (
            "-p 0.0.0.0:2376:2376/tcp",
            &["tcp://0.0.0.0:2376 (TLS)"][..],
            "",
        ),
        (
            "-p 127.0.0.1:2376:2376/tcp",
            &["tcp://0.0.0.0:2376 (TLS)"],
            "",
        ),
        (
            "-p 127.0.0.1:9999:2376/tcp -p :4444:2376/tcp -p 192.0.2.1:4444:2376/tcp",
            &[
                "tcp://0.0.0.0:2376 (TLS)",
                "tcp://127.0.0.1:9999 (TLS)",
                "tcp://0.0.0.0:4444 (TLS)",
            ],
            "",
        ),
        (
            "-p 0.0.0.0:8080:80/tcp",
            &["tcp://0.0.0.0:2376 (TLS)"],
            "docker run -p",
        ),
        (
            "-p 0.0.0.0:2376:2376/udp",
            &["tcp://0.0.0.0:2376 (TLS)"],
            "docker run -p",
        ),
        (
            "-p [::]:2376:2376/tcp",
            &["tcp://0.0.0.0:2376 (TLS)"],
            "is served on 0.0.0.0 only",
        ),
    ] {
        let start = Start {
            variables: &[(FLAGS, flags), tls],
            ..ROOTLESS
        };
        let (addresses, _) = sockets(&start)?;
        assert_eq!(addresses, [&[usual], expected].concat(), "{flags}");
        let warnings = start.plan(&bare_v1())?.warnings;
        let warning = warnings.iter().find(|found| found.code == "rootlesskit");
        let text = warning.map(ToString::to_string).unwrap_or_default();
        assert_eq!(text.is_empty(), warned.is_empty(), "{text}");
        assert!(
            text.contains(warned) && (text.is_empty() || text.contains(FLAGS)),
            "{text}"
        );
    }
    // The command of moby's documentation.
    let start = Start {
        arguments: &["dind", "dockerd", "-H", "tcp://0.0.0.0:2376"],
        variables: &[(FLAGS, "-p 127.0.0.1:9999:2376/tcp")],
        ..ROOTLESS
    };
    let expected = ["tcp://0.0.0.0:2376", "tcp://127.0.0.1:9999"];
    assert_eq!(sockets(&start)?.0, expected);
    Ok(())
}

#[test]
fn what_rootlesskit_would_do_is_done_or_warned_of_by_name() -> Result<(), Fault> {
    let said = |start: &Start<'_>| -> Result<String, Fault> {
        let warnings = start.plan(&bare_v1())?.warnings.into_iter();
        let ours = warnings.filter(|warning| warning.code == "rootlesskit");
        Ok(ours.map(|warning| format!("{warning}\n")).collect())
    };
    for (name, value, silent) in [
        ("NET", "vpnkit", "slirp4netns"),
        ("MTU", "67", "1400"),
        ("PORT_DRIVER", "slirp4netns", "builtin"),
        ("DISABLE_HOST_LOOPBACK", "false", "true"),
        ("SLIRP4NETNS_SANDBOX", "true", "auto"),
        ("SLIRP4NETNS_SECCOMP", "true", "false"),
        ("DETACH_NETNS", "1", "0"),
        ("STATE_DIR", "/run/state", ""),
        ("FLAGS", "--pidns", "--copy-up=/etc --cgroupns"),
        ("FLAGS", "--debug --mtu 1400", "--disable-host-loopback"),
    ] {
        let name = format!("DOCKERD_ROOTLESS_ROOTLESSKIT_{name}");
        let with = |value, start| {
            let variables = &[(name.as_str(), value)];
            said(&Start { variables, ..start })
        };
        let text = with(value, ROOTLESS)?;
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(&name) && text.contains("; "), "{text}");
        assert_eq!(with(silent, ROOTLESS)?, "", "{name}");
        let privileged = with(value, DAEMON)?;
        assert!(privileged.contains(&name), "{privileged}");
        assert!(privileged.contains("DIND_ROOTLESS=1"), "{privileged}");
    }
    let flags = Start {
        variables: &[(
            "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS",
            "--debug --pidns --mtu 1400",
        )],
        ..ROOTLESS
    };
    let text = said(&flags)?;
    assert!(text.contains("--debug, --pidns and --mtu"), "{text}");
    assert!(text.contains("DIND_LOG=debug and set DIND_MTU"), "{text}");
    // What comes first is named, and is no news where both say the same.
    for (own, theirs, value, same) in [
        ("DIND_ROOTLESS_NETWORK", "NET", "auto", "slirp4netns"),
        ("DIND_MTU", "MTU", "1300", "1400"),
    ] {
        let theirs = format!("DOCKERD_ROOTLESS_ROOTLESSKIT_{theirs}");
        let with = |value| {
            let variables = &[(own, value), (theirs.as_str(), same)];
            said(&Start {
                variables,
                ..ROOTLESS
            })
        };
        let text = with(value)?;
        let comes = format!("{theirs}={same:?} has no effect: {own} comes first; ");
        assert!(text.starts_with(&comes), "{text}");
        assert_eq!(with(same)?, "");
    }
    let broken = Start {
        variables: &[("DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS", "-p 2376")],
        ..ROOTLESS
    };
    assert_eq!(broken.fault(&bare_v1()).status, USAGE);
    Ok(())
}

/// With the rights of the container, in a user namespace, and where there can be no engine at all.
#[test]
fn a_value_that_is_wrong_is_one_fault_in_every_container() {
    let network = "auto, veth, slirp4netns, pasta";
    for (name, value, allowed) in [
        ("DIND_ROOTLESS", "yes", "1, 0"),
        ("DIND_ROOTLESS", "2", "1, 0"),
        ("DIND_ROOTLESS", " 1", "1, 0"),
        ("DIND_ROOTLESS_NETWORK", "vpnkit", network),
        ("DIND_ROOTLESS_NETWORK", "VETH", network),
        ("DIND_ROOTLESS_NETWORK", "veth,pasta", network),
        (
            "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS",
            "word",
            "rootlesskit's flags, such as -p 0.0.0.0:2376:2376/tcp",
        ),
    ] {
        for arguments in [&["dind"][..], &["dind", "dockerd"], &["wrapdocker"]] {
            let variables = &[(name, value)];
            let start = Start {
                arguments,
                variables,
                ..DAEMON
            };
            let in_namespace = Start {
                rootless: true,
                ..start
            };
            let Err(nowhere) = start.role(false, SocketState::Free) else {
                panic!("no fault: {name}={value:?}");
            };
            let faults = [
                start.fault(&bare_v1()),
                in_namespace.fault(&bare_v1()),
                nowhere,
            ];
            for fault in faults {
                assert_eq!(fault.status, USAGE, "{fault}");
                let text = format!("{name}={value:?} is not valid; allowed: {allowed}");
                assert_eq!(fault.to_string(), text);
            }
        }
    }
}

/// What moby's and nerdctl's scripts and rootlesskit itself read besides, and what nobody does.
#[test]
fn variables_for_other_scripts_of_rootlesskit_are_warned_of() -> Result<(), Fault> {
    let said = |name, value, start: Start<'_>| -> Result<Vec<String>, Fault> {
        let variables = &[(name, value)];
        let plan = Start { variables, ..start }.plan(&bare_v1())?;
        let ours = plan.warnings.iter();
        let ours = ours.filter(|warning| warning.code == "rootlesskit");
        Ok(ours.map(ToString::to_string).collect())
    };
    let of_nerdctl = "it is for nerdctl's containerd-rootless.sh; ";
    let same = "set DOCKERD_ROOTLESS_ROOTLESSKIT_NET in its place";
    for (name, expected, is_said_privileged) in [
        (
            "DOCKERD_ROOTLESS_ROOTLESSKIT_ENABLE_HOST_LOOPBACK",
            "there is no such variable; check its spelling: 'dind --help' has those that there are",
            true,
        ),
        (
            "CONTAINERD_ROOTLESS_ROOTLESSKIT_NET",
            &format!("{of_nerdctl}{same}"),
            true,
        ),
        (
            "CONTAINERD_ROOTLESS_ROOTLESSKIT_IPV6",
            &format!("{of_nerdctl}unset it"),
            true,
        ),
        (
            "ROOTLESSKIT_STATE_DIR",
            "no rootlesskit runs that could have a state; unset it",
            false,
        ),
        (
            "DOCKERD",
            "dockerd is looked for in PATH; put its directory first in PATH, or unset it",
            false,
        ),
        ("DIND_ROOTLESS_NETWORK", "", true),
    ] {
        let value = "slirp4netns";
        let line = format!("{name} has no effect: {expected}");
        let expected: Vec<String> = (!expected.is_empty()).then_some(line).into_iter().collect();
        assert_eq!(said(name, value, ROOTLESS)?, expected);
        let privileged = said(name, value, DAEMON)?;
        let is_said = |text: &String| text.contains(&format!("these are for: {name}; "));
        assert!(privileged.iter().all(is_said), "{privileged:?}");
        assert_eq!(privileged.len(), usize::from(is_said_privileged), "{name}");
        assert_eq!(said(name, "", ROOTLESS)?, [""; 0], "{name}");
    }
    Ok(())
}

/// A command is the client's only where nothing shows that a daemon is wanted.
#[test]
fn a_command_has_a_daemon_where_one_can_be() -> Result<(), Fault> {
    let start = Start {
        arguments: &["dind", "true"],
        ..ROOTLESS
    };
    let (role, _) = start.role(false, SocketState::Free)?;
    assert!(matches!(role, Role::Session { .. }), "{role:?}");
    let bare = Start {
        rootless: false,
        ..start
    };
    let (role, _) = bare.role(false, SocketState::Free)?;
    assert!(matches!(role, Role::Client { .. }), "{role:?}");
    let never = Start {
        variables: &[("DIND_ROOTLESS", "0")],
        ..start
    };
    let (role, _) = never.role(false, SocketState::Free)?;
    assert!(matches!(role, Role::Client { .. }), "{role:?}");
    // A client does not read the variables.
    for variable in [("DIND_ROOTLESS", "yes"), ("DIND_ROOTLESS_NETWORK", "lxc")] {
        let wrong = Start {
            variables: &[variable],
            ..bare
        };
        let (role, _) = wrong.role(false, SocketState::Free)?;
        assert!(matches!(role, Role::Client { .. }), "{role:?}");
    }
    assert!(mode::home().is_absolute());
    Ok(())
}

/// The warning about limits of a plan, if it has one.
fn of_limits(plan: &Plan) -> Option<String> {
    let mut warnings = plan.warnings.iter();
    let found = warnings.find(|warning| warning.code == "rootless-limits");
    found.map(ToString::to_string)
}

/// A receive buffer that holds more than pasta can count is named, with it only.
#[test]
fn a_connection_that_pasta_may_leave_is_warned_of() -> Result<(), Fault> {
    for (driver, receive_buffer, expected) in [
        ("pasta", 33_554_432, true),
        ("pasta", 16_777_217, true),
        ("pasta", 16_777_216, false),
        ("slirp4netns", 33_554_432, false),
        ("auto", 33_554_432, false),
    ] {
        let start = Start {
            variables: &[("DIND_ROOTLESS_NETWORK", driver)],
            receive_buffer,
            ..ROOTLESS
        };
        let plan = start.plan(&bare_v1())?;
        let mut warnings = plan.warnings.iter().map(ToString::to_string);
        let found = warnings.find(|warning| warning.contains("net.ipv4.tcp_rmem"));
        assert_eq!(found.is_some(), expected, "{driver} {receive_buffer}");
        assert!(found.is_none_or(|warning| {
            warning.contains(&receive_buffer.to_string())
                && warning.contains("--sysctl 'net.ipv4.tcp_rmem=4096 131072 16777216'")
        }));
    }
    Ok(())
}

/// The cgroup of the container is the engine's where it can be: then dockerd is not told that it is in
/// a user namespace, for it would take every limit out.
#[test]
fn limits_are_enforced_in_a_writable_cgroup() -> Result<(), Fault> {
    let start = Start {
        cgroup: true,
        variables: &[("ROOTLESSKIT_STATE_DIR", "/theirs")],
        ..ROOTLESS
    };
    let facts = unified("0::/\n");
    let plan = start.plan(&facts)?;
    let own = actions(&plan.steps);
    let expected = [
        "move every process of /sys/fs/cgroup to init, then enable every controller",
        "chown 1000 /sys/fs/cgroup",
        "chown 1000 /sys/fs/cgroup/cgroup.procs",
        "chown 1000 /sys/fs/cgroup/cgroup.threads",
        "chown 1000 /sys/fs/cgroup/cgroup.subtree_control",
    ];
    assert!(own.ends_with(&expected.map(str::to_owned)), "{plan}");
    assert_eq!(of_limits(&plan), None);
    let engine = start.engine(&facts)?;
    assert!(!engine.dockerd.arguments.contains(&"--rootless".into()));
    // It takes the variable for the flag.
    let mut variables = engine.dockerd.environment.iter();
    assert!(!variables.any(|(name, _)| name == "ROOTLESSKIT_STATE_DIR"));
    let proxy = "--userland-proxy-path=/run/dind/ports/rootlesskit-docker-proxy";
    assert!(engine.dockerd.arguments.contains(&proxy.into()), "{plan}");
    // The leaf would be all of a cgroup namespace that is made now.
    assert_eq!(
        engine.namespaces.map(|namespaces| namespaces.cgroup),
        Some(false)
    );
    Ok(())
}

/// Where it cannot be, the reason and the remedy are in one warning.
#[test]
fn limits_that_are_not_enforced_are_named() -> Result<(), Fault> {
    let writable = Start {
        cgroup: true,
        ..ROOTLESS
    };
    let unprivileged = Start {
        capabilities: of_root(CapabilitySet::ALL.without(Capability::SYS_ADMIN)),
        ..writable
    };
    let without_cpu = || {
        let mut facts = unified("0::/\n");
        facts.container.cgroup.unified.controllers.remove("cpu");
        facts
    };
    for (start, facts, parts, is_told) in [
        (&ROOTLESS, bare_v1(), ["cgroup v1", "cgroup v2"], true),
        (
            &ROOTLESS,
            unified("0::/\n"),
            ["is not writable", "writable-cgroups=true"],
            true,
        ),
        // Another cgroup namespace cannot be entered without privileges.
        (
            &unprivileged,
            unified("0::/pod\n"),
            ["cgroup namespace of its host", "--cgroupns=private"],
            true,
        ),
        (
            &writable,
            without_cpu(),
            ["not enforced (--cpus)", "no controller cpu"],
            false,
        ),
    ] {
        let warning = of_limits(&start.plan(&facts)?).unwrap_or_default();
        assert!(parts.iter().all(|part| warning.contains(part)), "{warning}");
        let engine = start.engine(&facts)?;
        let told = engine.dockerd.arguments.contains(&"--rootless".into());
        assert_eq!(told, is_told, "{warning}");
    }
    assert_eq!(of_limits(&DAEMON.plan(&bare_v1())?), None);
    Ok(())
}

/// A device that nobody in this container can open is not chosen.
#[test]
fn fuse_needs_its_device() -> Result<(), Fault> {
    let mut facts = bare_v1();
    facts.data_root.filesystem = Filesystem::Unsuitable("overlay");
    facts.data_root.means = Some(Means {
        fuse_overlayfs: true,
        ..means()
    });
    let driver = |start: &Start<'_>| -> Result<bool, Fault> {
        let arguments = start.engine(&facts)?.dockerd.arguments;
        Ok(arguments.contains(&"--storage-driver=vfs".into()))
    };
    assert!(driver(&ROOTLESS)?);
    Ok(())
}

#[test]
fn a_nest_has_no_levels_without_privileges() -> Result<(), Fault> {
    let nest = |depth| Start {
        arguments: depth,
        ..ROOTLESS
    };
    let fault = nest(&["dind", "nest", "2"]).fault(&bare_v1());
    assert!(fault.message.contains("levels of a nest"), "{fault}");
    nest(&["dind", "nest", "1"]).engine(&bare_v1()).map(drop)
}
