//! The behaviour that users of `docker:dind` and `docker:cli` expect: roles, TLS, iptables and the
//! environment of each process.

use std::net::IpAddr;

use super::*;

const CERTIFICATES: (&str, &str) = ("DOCKER_TLS_CERTDIR", "/certs");

fn arguments(start: &Start<'_>) -> Result<String, Fault> {
    let arguments = start.engine(&bare_v1())?.dockerd.arguments;
    let arguments: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    Ok(arguments.join(" "))
}

fn certificates(plan: &Plan) -> Option<String> {
    match &plan.outcome {
        Outcome::Supervise(engine) => Some(engine.certificates.as_ref()?.to_string()),
        Outcome::Become { .. } => None,
    }
}

fn role(start: &Start<'_>, privileged: bool, state: SocketState) -> Result<&'static str, Fault> {
    Ok(match start.role(privileged, state)?.0 {
        Role::Serve(Serve { literal: true, .. }) => "serve literally",
        Role::Serve(_) => "serve",
        Role::Client { .. } => "client",
        Role::Session { .. } => "session",
        Role::Prepare { .. } => "prepare",
        Role::Inform { .. } => "inform",
    })
}

#[test]
fn a_container_is_a_client_where_it_can_be_nothing_else() -> Result<(), Fault> {
    let outside = SocketState::Mounted { live: true };
    let tcp: &[(&str, &str)] = &[("DOCKER_HOST", "tcp://docker:2375")];
    let unix: &[(&str, &str)] = &[("DOCKER_HOST", "unix:///elsewhere.sock")];
    // `PORT` may be another program's.
    let port: &[(&str, &str)] = &[("PORT", "3000")];
    let port_and_tcp: &[(&str, &str)] = &[port[0], tcp[0]];
    let echo: &[&str] = &["dind", "echo", "hi"];
    let none: &[&str] = &["dind"];
    for (arguments, variables, stdin, privileged, state, expected) in [
        (
            echo,
            &[][..],
            Stdin::Null,
            false,
            SocketState::Free,
            "client",
        ),
        (echo, &[], Stdin::Null, true, SocketState::Free, "session"),
        (echo, tcp, Stdin::Null, true, SocketState::Free, "client"),
        (echo, unix, Stdin::Null, true, SocketState::Free, "session"),
        (echo, unix, Stdin::Null, true, SocketState::Live, "client"),
        (echo, &[], Stdin::Null, true, outside, "client"),
        (
            none,
            tcp,
            Stdin::Terminal,
            true,
            SocketState::Free,
            "client",
        ),
        (
            none,
            tcp,
            Stdin::Terminal,
            false,
            SocketState::Free,
            "client",
        ),
        (none, &[], Stdin::Terminal, false, outside, "client"),
        (echo, port, Stdin::Null, true, outside, "client"),
        (echo, port, Stdin::Null, true, SocketState::Live, "client"),
        (echo, port, Stdin::Null, false, SocketState::Free, "client"),
        (
            echo,
            port_and_tcp,
            Stdin::Null,
            true,
            SocketState::Free,
            "client",
        ),
        (echo, port, Stdin::Null, true, SocketState::Free, "serve"),
        (
            none,
            port,
            Stdin::Terminal,
            true,
            SocketState::Free,
            "serve",
        ),
        (
            none,
            port_and_tcp,
            Stdin::Terminal,
            true,
            SocketState::Free,
            "serve",
        ),
        (
            &["wrapdocker", "echo"],
            port_and_tcp,
            Stdin::Null,
            true,
            SocketState::Free,
            "serve",
        ),
        // A CI job passes its variables to its service containers too.
        (none, tcp, Stdin::Null, true, SocketState::Free, "serve"),
    ] {
        let start = Start {
            arguments,
            variables,
            stdin,
            ..DAEMON
        };
        assert_eq!(
            role(&start, privileged, state)?,
            expected,
            "{arguments:?} {variables:?} {stdin:?} {privileged} {state:?}"
        );
    }
    for (start, privileged, state) in [
        (SHELL, false, SocketState::Free),
        (SHELL, true, SocketState::Mounted { live: false }),
        (DAEMON, true, outside),
        (DAEMON, false, SocketState::Free),
        (
            Start {
                variables: port,
                ..SHELL
            },
            true,
            outside,
        ),
    ] {
        assert!(start.role(privileged, state).is_err(), "{state:?}");
    }
    Ok(())
}

#[test]
fn the_official_entrypoints_are_kept() -> Result<(), Fault> {
    let free = SocketState::Free;
    for (arguments, expected) in [
        (&["dockerd-entrypoint.sh"][..], "serve"),
        (&["dockerd-entrypoint.sh", "-D"], "serve"),
        (
            &["dockerd-entrypoint.sh", "dockerd", "-D"],
            "serve literally",
        ),
        (&["dockerd-entrypoint.sh", "--version"], "inform"),
        (&["dockerd-entrypoint.sh", "sh", "-c", "x"], "client"),
        (&["docker-entrypoint.sh"], "client"),
        (&["docker-entrypoint.sh", "dockerd"], "client"),
        (&["dind", "dockerd-entrypoint.sh"], "serve"),
        (&["dind", "docker-entrypoint.sh", "ps"], "client"),
    ] {
        for stdin in [Stdin::Null, Stdin::Terminal] {
            let start = Start {
                arguments,
                stdin,
                ..DAEMON
            };
            assert_eq!(role(&start, true, free)?, expected, "{arguments:?}");
        }
    }
    // The official entrypoints do not read PORT.
    let start = Start {
        arguments: &["dockerd-entrypoint.sh"],
        variables: &[("PORT", "4444"), ("DOCKER_HOST", "unix:///x.sock")],
        ..DAEMON
    };
    assert_eq!(listeners(&start)?, ["unix:///x.sock", "tcp://0.0.0.0:2375"]);
    Ok(())
}

#[test]
fn a_subcommand_of_docker_gets_docker_before_it() -> Result<(), Fault> {
    let start = |arguments| Start {
        arguments,
        ..DAEMON
    };
    let session = start(&["dind", "ps", "-a"]).engine(&bare_v1())?;
    let expected = ["docker", "ps", "-a"].map(OsString::from).to_vec();
    assert_eq!(session.foreground, Foreground::Command(expected.clone()));
    let client = start(&["docker-entrypoint.sh", "ps", "-a"]).plan(&bare_v1())?;
    assert!(
        matches!(&client.outcome, Outcome::Become { command, .. } if *command == expected),
        "{client}"
    );
    assert!(client.steps.is_empty() && client.notes.is_empty() && client.warnings.is_empty());
    // wrapdocker ran the command as it was.
    let wrapdocker = start(&["wrapdocker", "ps"]).engine(&bare_v1())?;
    assert_eq!(
        wrapdocker.foreground,
        Foreground::Command(vec!["ps".into()])
    );
    Ok(())
}

#[test]
fn tls_follows_the_table() -> Result<(), Fault> {
    for (arguments, variables, stdin, expected) in [
        (
            &["dind"][..],
            &[CERTIFICATES][..],
            Stdin::Null,
            "0.0.0.0:2376 (TLS)",
        ),
        (
            &["dind"],
            &[CERTIFICATES],
            Stdin::Terminal,
            "0.0.0.0:2376 (TLS)",
        ),
        (
            &["dind", "sh"],
            &[CERTIFICATES],
            Stdin::Null,
            "0.0.0.0:2376 (TLS)",
        ),
        (
            &["dind"],
            &[CERTIFICATES, ("PORT", "2376")],
            Stdin::Null,
            "0.0.0.0:2376 (TLS)",
        ),
        (
            &["dind"],
            &[CERTIFICATES, ("PORT", "4444")],
            Stdin::Null,
            "0.0.0.0:2376 (TLS) 0.0.0.0:4444",
        ),
        (&["dind"], &[("PORT", "2376")], Stdin::Null, "0.0.0.0:2376"),
        (&["dind"], &[("PORT", "4444")], Stdin::Null, "0.0.0.0:4444"),
        (
            &["wrapdocker"],
            &[CERTIFICATES, ("PORT", "4444")],
            Stdin::Null,
            "0.0.0.0:4444",
        ),
        (
            &["wrapdocker"],
            &[CERTIFICATES, ("PORT", "2376")],
            Stdin::Null,
            "0.0.0.0:2376",
        ),
        (
            &["dockerd-entrypoint.sh"],
            &[CERTIFICATES, ("PORT", "4444")],
            Stdin::Null,
            "0.0.0.0:2376 (TLS)",
        ),
        (&["dockerd-entrypoint.sh"], &[], Stdin::Null, "0.0.0.0:2375"),
        (&["dind", "dockerd"], &[CERTIFICATES], Stdin::Null, ""),
    ] {
        let start = Start {
            arguments,
            variables,
            stdin,
            ..DAEMON
        };
        let tcp = listeners(&start)?.into_iter().skip(1);
        let tcp: Vec<String> = tcp.map(|address| address.replace("tcp://", "")).collect();
        assert_eq!(tcp.join(" "), expected, "{arguments:?} {variables:?}");
        let plan = start.plan(&bare_v1())?;
        let has_tls = expected.contains("(TLS)");
        assert_eq!(certificates(&plan).is_some(), has_tls, "{plan}");
        assert_eq!(arguments_have(&start, "--tlsverify")?, has_tls, "{plan}");
    }
    Ok(())
}

/// `PORT` may have been meant for another program, and then clients look for the port with TLS.
#[test]
fn port_is_served_beside_tls_and_not_by_dockerd() -> Result<(), Fault> {
    let start = Start {
        variables: &[
            CERTIFICATES,
            ("PORT", "3000"),
            ("DOCKER_HOST", "unix:///x.sock"),
        ],
        ..DAEMON
    };
    let engine = start.engine(&bare_v1())?;
    let forwarded = engine.forwarded.as_ref().map(ToString::to_string);
    assert_eq!(
        forwarded.as_deref(),
        Some("connections to tcp://0.0.0.0:3000 go to unix:///x.sock")
    );
    // With the host's network another daemon may have 2376, and `PORT` is what was asked for.
    let required: Vec<bool> = engine
        .listeners
        .iter()
        .filter_map(|listener| match listener {
            Listener::Tcp { required, .. } => Some(*required),
            Listener::Unix { .. } => None,
        })
        .collect();
    assert_eq!(required, [false, true]);
    let plan = start.plan(&bare_v1())?;
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings.iter().any(
            |warning| warning.starts_with("tcp://0.0.0.0:3000 has no TLS")
                && warning.contains("WHOEVER REACHES THIS PORT IS ROOT ON THE HOST; unset PORT")
        ),
        "{warnings:?}"
    );
    assert!(
        plan.to_string()
            .contains("\nforward: connections to tcp://0.0.0.0:3000 go to")
    );
    // The user's own TLS is dockerd's on every port.
    let json = r#"{"tlsverify": true, "tlscacert": "/a", "tlscert": "/b", "tlskey": "/c"}"#;
    let own = Start { json, ..start };
    let ports = ["tcp://0.0.0.0:2376 (TLS)", "tcp://0.0.0.0:3000 (TLS)"];
    assert_eq!(listeners(&own)?.split_off(1), ports);
    assert_eq!(own.engine(&bare_v1())?.forwarded, None);
    Ok(())
}

/// GitLab gives the variables of a job to its services.
#[test]
fn a_jobs_variables_stop_nothing_that_does_not_read_them() -> Result<(), Fault> {
    let variables: &[(&str, &str)] = &[
        ("LOG", "debug"),
        ("PORT", "auto"),
        ("DOCKER_DAEMON_ARGS", "'"),
        ("DIND_MTU", "big"),
    ];
    for arguments in [
        &["docker-entrypoint.sh", "ps"][..],
        &["dockerd-entrypoint.sh", "ps"],
        &["hack-dind", "true"],
    ] {
        let start = Start {
            arguments,
            variables,
            ..DAEMON
        };
        assert_eq!(start.plan(&bare_v1())?.warnings, [], "{arguments:?}");
    }
    let client = Start {
        arguments: &["dind", "ps"],
        variables,
        ..DAEMON
    };
    assert_eq!(role(&client, true, SocketState::Live)?, "client");
    let valid = Start {
        variables: &[("PORT", "3000"), ("DOCKER_HOST", "tcp://docker:2376")],
        ..client
    };
    assert_eq!(valid.plan(&bare_v1())?.warnings, []);
    assert_eq!(role(&valid, true, SocketState::Free)?, "client");
    let log = "LOG=\"debug\" is not valid and counts as not set; allowed: file, stdio";
    let port = "PORT=\"auto\" is not valid and counts as not set; allowed: a TCP port, 1 to 65535";
    for (arguments, expected) in [
        (&["dind"][..], &[port, log][..]),
        (&["dind", "true"], &[port, log]),
        (&["dockerd-entrypoint.sh"], &[log]),
        (&["wrapdocker", "true"], &[log]),
    ] {
        let leaked = &variables[..if arguments[0] == "wrapdocker" { 1 } else { 2 }];
        let start = Start {
            arguments,
            variables: leaked,
            ..DAEMON
        };
        let warnings = start.plan(&bare_v1())?.warnings;
        let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        for warning in expected {
            assert!(
                warnings.iter().any(|found| found == warning),
                "{warnings:?}"
            );
        }
        let engine = start.engine(&bare_v1())?;
        assert!(engine.log_file.is_none());
    }
    for (arguments, variable) in [
        (&["wrapdocker"][..], ("PORT", "auto")),
        (&["wrapdocker", "true"], ("DIND_MTU", "big")),
        (&["dind"], ("DOCKER_DAEMON_ARGS", "'")),
        (
            &["dind", "dockerd", "--version"],
            ("DOCKER_DAEMON_ARGS", "'"),
        ),
        (&["docker-entrypoint.sh"], ("DIND_LOG", "loud")),
        (&["hack-dind", "true"], ("DIND_TMPFS", "no")),
    ] {
        let start = Start {
            arguments,
            variables: &[variable],
            ..DAEMON
        };
        let fault = start.fault(&bare_v1());
        assert_eq!(fault.status, 2, "{fault:?}");
        assert!(fault.message.starts_with(variable.0), "{fault:?}");
    }
    Ok(())
}

fn arguments_have(start: &Start<'_>, word: &str) -> Result<bool, Fault> {
    Ok(arguments(start)?.split(' ').any(|found| found == word))
}

#[test]
fn the_users_own_tls_is_left_alone() -> Result<(), Fault> {
    let json = |json| Start {
        variables: &[CERTIFICATES],
        json,
        ..DAEMON
    };
    let verify = json(r#"{"tlsverify": true, "tlscacert": "/a", "tlscert": "/b", "tlskey": "/c"}"#);
    assert!(!arguments(&verify)?.contains("--tls"));
    assert_eq!(certificates(&verify.plan(&bare_v1())?), None);
    assert_eq!(
        listeners(&verify)?.get(1).map(String::as_str),
        Some("tcp://0.0.0.0:2376 (TLS)")
    );

    let files = json(r#"{"tlscacert": "/a"}"#);
    let given = arguments(&files)?;
    assert!(
        given.contains("--tlsverify")
            && given.contains("--tlscert=/certs/server/cert.pem")
            && !given.contains("--tlscacert"),
        "{given}"
    );

    // dockerd ignores the files unless `--tls` or `--tlsverify` is a flag.
    for (text, switch) in [
        (r#"{"tls": false}"#, "--tlsverify"),
        (r#"{"tls": true}"#, "--tlsverify"),
        (r#"{"tlsverify": true}"#, "--tls"),
    ] {
        let start = json(text);
        assert!(arguments_have(&start, switch)?, "{text}");
        let tcp = listeners(&start)?.into_iter().nth(1);
        assert_eq!(tcp.as_deref(), Some("tcp://0.0.0.0:2376 (TLS)"), "{text}");
    }
    // TLS without client certificates causes a warning.
    let everybody = json(r#"{"tlsverify": false}"#);
    let tcp = listeners(&everybody)?.into_iter().nth(1);
    assert_eq!(
        tcp.as_deref(),
        Some("tcp://0.0.0.0:2376 (TLS, no client certificate)")
    );
    let warnings = everybody.plan(&bare_v1())?.warnings;
    assert!(
        warnings
            .iter()
            .any(|warning| warning.code == "tcp-without-tls"),
        "{warnings:?}"
    );

    let flags = Start {
        arguments: &["dind", "--tlscacert=/a", "--tlscert", "/b", "--tlskey=/c"],
        variables: &[CERTIFICATES],
        ..DAEMON
    };
    assert_eq!(certificates(&flags.plan(&bare_v1())?), None);

    let on = Start {
        arguments: &["dind", "--tls"],
        ..DAEMON
    };
    assert_eq!(
        listeners(&on)?.get(1).map(String::as_str),
        Some("tcp://0.0.0.0:2375 (TLS, no client certificate)")
    );
    Ok(())
}

#[test]
fn the_certificate_has_every_name_of_the_container() -> Result<(), Fault> {
    let start = Start {
        variables: &[
            CERTIFICATES,
            ("DOCKER_TLS_SAN", "DNS:ci.example,IP:10.0.0.1"),
        ],
        ..DAEMON
    };
    let certificates = certificates(&start.plan(&bare_v1())?).unwrap_or_default();
    for name in [
        "DNS:docker",
        "DNS:localhost",
        "DNS:box",
        "DNS:ci.example",
        "IP:127.0.0.1",
        "IP:172.17.0.2",
        "IP:::1",
        "IP:10.0.0.1",
    ] {
        assert!(certificates.contains(name), "{name}: {certificates}");
    }
    Ok(())
}

#[test]
fn the_backend_of_iptables_is_docker_librarys_choice() -> Result<(), Fault> {
    let forced: &[(&str, &str)] = &[("DOCKER_IPTABLES_LEGACY", "1")];
    let refused: &[(&str, &str)] = &[("DOCKER_IPTABLES_LEGACY", "")];
    for (variables, in_use, nf_tables, legacy) in [
        (&[][..], false, NfTables::Present, false),
        (&[], true, NfTables::Unknown, true),
        (&[], false, NfTables::Missing, true),
        (forced, false, NfTables::Unknown, true),
        (refused, true, NfTables::Unknown, false),
    ] {
        let mut facts = bare_v1();
        facts.netfilter.legacy_in_use = in_use;
        facts.netfilter.nf_tables = nf_tables;
        let start = Start {
            variables,
            ..DAEMON
        };
        let plan = start.plan(&facts)?;
        let words = if legacy {
            "iptables: legacy, since"
        } else {
            "iptables: nft, since"
        };
        assert!(
            plan.notes.iter().any(|note| note.seen.starts_with(words)),
            "{plan}"
        );
        let loads = commands(&plan)
            .iter()
            .any(|command| command == "load module ip6_tables");
        assert_eq!(loads, legacy, "{plan}");
        // The kernel is not asked if the backend is known without it.
        assert!(
            !plan.to_string().contains("load module nf_tables"),
            "{plan}"
        );
        let link = "ln -s /usr/sbin/ip6tables-legacy-save /run/dind-iptables-legacy/ip6tables-save";
        assert_eq!(
            commands(&plan).iter().any(|command| command == link),
            legacy,
            "{plan}"
        );
        let path = start.engine(&facts)?.dockerd.environment;
        let path = path.iter().find(|(name, _)| name == "PATH");
        let first = path.is_some_and(|(_, path)| {
            path.to_string_lossy()
                .starts_with("/run/dind-iptables-legacy:/")
        });
        assert_eq!(first, legacy, "{path:?}");
    }
    Ok(())
}

#[test]
fn an_unknown_nf_tables_is_loaded_first() -> Result<(), Fault> {
    let mut facts = bare_v1();
    facts.netfilter.nf_tables = NfTables::Unknown;
    let plan = DAEMON.plan(&facts)?;
    let found = commands(&plan);
    assert_eq!(
        found.first().map(String::as_str),
        Some("load module nf_tables")
    );
    let note = "iptables: nft if the kernel has nf_tables, else legacy; a start loads the module and checks";
    assert!(
        plan.notes.iter().any(|found| found.to_string() == note),
        "{plan}"
    );
    // With the kernel's answer the other steps are the same.
    for (answer, legacy) in [(NfTables::Present, false), (NfTables::Missing, true)] {
        facts.netfilter.nf_tables = answer;
        let mut answered = commands(&DAEMON.plan(&facts)?);
        // The program before iptables depends on the answer, as the links to legacy programs do.
        answered.retain(|command| !command.starts_with("answer for"));
        assert!(!answered.contains(&"load module nf_tables".to_owned()));
        let loads = answered.contains(&"load module ip_tables".to_owned());
        assert_eq!(loads, legacy, "{answer:?}");
        if !legacy {
            assert_eq!(found.get(1..), Some(answered.as_slice()));
        }
    }
    Ok(())
}

#[test]
fn the_users_addresses_and_mtu_are_kept() -> Result<(), Fault> {
    let mut facts = bare_v1();
    facts.networks.mtu = Some(1400);
    facts.networks.default_network_opt = true;
    let given = |start: &Start<'_>| -> Result<String, Fault> {
        let arguments = start.engine(&facts)?.dockerd.arguments;
        let words: Vec<_> = arguments
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        Ok(words.join(" "))
    };
    let ours = given(&DAEMON)?;
    for word in [
        "--bip=172.17.0.1/22",
        "--default-address-pool=base=172.17.0.0/16,size=22",
        "--mtu=1400",
        "--default-network-opt=bridge=com.docker.network.driver.mtu=1400",
    ] {
        assert!(ours.contains(word), "{word}: {ours}");
    }
    for (flag, json) in [
        ("--bip=10.1.1.1/24", ""),
        ("-b=none", ""),
        ("-D", r#"{"default-address-pools": []}"#),
    ] {
        let arguments = &["dind", flag];
        let theirs = given(&Start {
            arguments,
            json,
            ..DAEMON
        })?;
        assert!(
            !theirs.contains("--bip=172") && !theirs.contains("--default-address-pool"),
            "{theirs}"
        );
        assert!(theirs.contains("--mtu=1400"), "{theirs}");
    }
    let json = r#"{"mtu": 1300}"#;
    assert!(!given(&Start { json, ..DAEMON })?.contains("--mtu"));
    for (value, flags, theirs) in [
        ("1280", &["dind"] as &[&str], Some("1280")),
        ("1500", &["dind"], Some("1500")),
        ("1280", &["dind", "--mtu=1350"], None),
        ("off", &["dind"], None),
    ] {
        let start = Start {
            arguments: flags,
            variables: &[("DIND_MTU", value)],
            ..DAEMON
        };
        let given = given(&start)?;
        let expected = theirs.map(|mtu| {
            format!("--mtu={mtu} --default-network-opt=bridge=com.docker.network.driver.mtu={mtu}")
        });
        match expected {
            Some(expected) => assert!(given.contains(&expected), "{given}"),
            None => assert!(!given.replace("--mtu=1350", "").contains("mtu"), "{given}"),
        }
    }
    Ok(())
}

#[test]
fn resolvers_on_loopback_get_a_forwarder_that_containers_reach() -> Result<(), Fault> {
    let mut facts = bare_v1();
    facts.networks.resolver_options = vec!["ndots:0".into()];
    let outcome = |facts: &Facts, start: &Start<'_>| -> Result<_, Fault> {
        let engine = start.engine(facts)?;
        let arguments = engine.dockerd.arguments.into_iter();
        let dns: Vec<String> = arguments
            .filter_map(|word| word.into_string().ok())
            .filter(|word| word.starts_with("--dns"))
            .collect();
        let forwarder = engine.forwarder.map(|forwarder| forwarder.to_string());
        Ok((forwarder, dns.join(" ")))
    };
    let with = |flag: &'static str, json: &'static str| Start {
        arguments: Box::leak(Box::new(["dind", flag])),
        json,
        ..DAEMON
    };
    let resolvers = |addresses: &[&str]| -> Vec<IpAddr> {
        let addresses = addresses.iter().map(|address| address.parse());
        addresses.filter_map(Result::ok).collect()
    };
    for (addresses, forwarder, dns) in [
        (&["10.0.0.53", "2001:db8::53"] as &[&str], None, ""),
        (&[], None, ""),
        (
            &["127.0.0.11"],
            Some("DNS queries to 172.17.0.1 go to 127.0.0.11"),
            "--dns=172.17.0.1 --dns-opt=attempts:2",
        ),
        (
            &["127.0.0.53", "10.0.0.53", "::1"],
            Some("DNS queries to 172.17.0.1 go to 127.0.0.53, then ::1"),
            "--dns=172.17.0.1 --dns=10.0.0.53 --dns-opt=attempts:2",
        ),
    ] {
        facts.networks.resolvers = resolvers(addresses);
        let expected = (forwarder.map(str::to_owned), dns.to_owned());
        assert_eq!(outcome(&facts, &DAEMON)?, expected, "{addresses:?}");
    }
    facts.networks.resolvers = resolvers(&["127.0.0.11"]);
    let off = Start {
        variables: &[("DIND_DNS", "off")],
        ..DAEMON
    };
    assert_eq!(outcome(&facts, &off)?, (None, String::new()));
    for (flag, json, dns) in [
        ("--dns=10.0.0.1", "", "--dns=10.0.0.1"),
        ("-D", r#"{"dns": ["10.0.0.1"]}"#, ""),
    ] {
        let expected = (None, dns.to_owned());
        assert_eq!(outcome(&facts, &with(flag, json))?, expected, "{flag}");
    }
    for (flag, json, address) in [
        ("--bip=10.1.1.1/24", "", "10.1.1.1"),
        ("-D", r#"{"bip": "10.2.2.1/24"}"#, "10.2.2.1"),
        ("-b=none", "", "172.17.0.2"),
        ("-D", r#"{"default-address-pools": []}"#, "172.17.0.2"),
    ] {
        let (forwarder, dns) = outcome(&facts, &with(flag, json))?;
        let expected = format!("DNS queries to {address} go to 127.0.0.11");
        assert_eq!(forwarder, Some(expected), "{flag} {json}");
        assert!(dns.starts_with(&format!("--dns={address} ")), "{dns}");
    }
    // Anyone could query a forwarder on a public address.
    facts.addresses = BTreeSet::from([[192, 0, 2, 1].into()]);
    let nowhere = outcome(&facts, &with("-b=none", ""))?;
    assert_eq!(nowhere, (None, String::new()));
    // The other options of the file are kept, and those of the user win.
    let options = ["ndots:0", "edns0"].map(str::to_owned);
    facts.networks.resolver_options = options.into();
    let (_, dns) = outcome(&facts, &DAEMON)?;
    assert_eq!(dns, "--dns=172.17.0.1 --dns-opt=edns0");
    let (_, dns) = outcome(&facts, &with("--dns-opt=rotate", ""))?;
    assert_eq!(dns, "--dns=172.17.0.1 --dns-opt=rotate");
    facts.networks.resolver_options = vec!["ndots:2".into()];
    facts.networks.search_domains = ["here", "not_here", "."].map(str::to_owned).into();
    assert_eq!(outcome(&facts, &DAEMON)?.1, "--dns=172.17.0.1");
    // With systemd-resolved's address alone, dockerd reads another file.
    facts.networks.resolvers = resolvers(&["127.0.0.53"]);
    let (_, dns) = outcome(&facts, &DAEMON)?;
    assert_eq!(dns, "--dns=172.17.0.1 --dns-opt=ndots:2 --dns-search=here");
    let (_, dns) = outcome(&facts, &with("--dns-search=there", ""))?;
    assert_eq!(dns, "--dns=172.17.0.1 --dns-opt=ndots:2 --dns-search=there");
    Ok(())
}

/// The environments of the command beside the daemon and of dockerd.
fn environments(start: &Start<'_>) -> Result<[Vec<String>; 2], Fault> {
    let engine = start.engine(&bare_v1())?;
    Ok(
        [engine.environment, engine.dockerd.environment].map(|environment| {
            environment
                .iter()
                .map(|(name, value)| format!("{}={}", name.display(), value.display()))
                .collect()
        }),
    )
}

#[test]
fn client_variables_break_neither_the_daemon_nor_the_commands_docker() -> Result<(), Fault> {
    let leaked: &[(&str, &str)] = &[
        ("DOCKER_TLS_VERIFY", "1"),
        ("DOCKER_TLS", "1"),
        ("DOCKER_CERT_PATH", "/nowhere"),
        ("DOCKER_CONFIG", "/c"),
        ("DOCKER_DRIVER", "overlay2"),
        ("NOTIFY_SOCKET", "/n"),
    ];
    let start = Start {
        variables: leaked,
        ..SHELL
    };
    // A context comes before the default socket, and after DOCKER_HOST.
    for host in ["", "unix:///x.sock"] {
        let with = Start {
            variables: &[("DOCKER_CONTEXT", "remote"), ("DOCKER_HOST", host)],
            ..SHELL
        };
        for environment in environments(&with)? {
            let context = environment
                .iter()
                .find(|word| word.starts_with("DOCKER_CONTEXT"));
            assert_eq!(context, None);
        }
        let warnings = with.plan(&bare_v1())?.warnings;
        let said = "the daemon of this container: DOCKER_CONTEXT;";
        assert!(
            warnings
                .iter()
                .any(|warning| warning.to_string().contains(said)),
            "{warnings:?}"
        );
    }
    let default = Start {
        variables: &[("DOCKER_CONTEXT", "default")],
        ..SHELL
    };
    let [command, _] = environments(&default)?;
    assert_eq!(command, ["DOCKER_CONTEXT=default"]);
    let [command, daemon] = environments(&start)?;
    assert_eq!(
        command,
        [
            "DOCKER_CERT_PATH=/nowhere",
            "DOCKER_CONFIG=/c",
            "DOCKER_DRIVER=overlay2"
        ]
    );
    let path = Config::read([], []).search_path;
    let path = format!("PATH=/run/dind-iptables:{}", path.display());
    assert_eq!(
        daemon,
        ["DOCKER_DRIVER=overlay2", path.as_str(), "container=docker"]
    );
    let warnings = start.plan(&bare_v1())?.warnings;
    let said = "certificates: DOCKER_TLS_VERIFY, DOCKER_TLS;";
    assert!(
        warnings
            .iter()
            .any(|warning| warning.to_string().contains(said)),
        "{warnings:?}"
    );
    let mut facts = bare_v1();
    facts.client.own_certificates = true;
    let kept = start.engine(&facts)?.environment;
    assert!(kept.iter().any(|(name, _)| name == "DOCKER_TLS_VERIFY"));
    Ok(())
}

#[test]
fn the_commands_docker_finds_the_daemon_wherever_it_listens() -> Result<(), Fault> {
    for (variables, json, expected) in [
        (&[][..], "", None),
        (
            &[("DOCKER_HOST", "unix:///x.sock")],
            "",
            Some("DOCKER_HOST=unix:///x.sock"),
        ),
        (
            &[],
            r#"{"hosts": ["tcp://127.0.0.1:1"]}"#,
            Some("DOCKER_HOST=tcp://127.0.0.1:1"),
        ),
        (
            &[],
            r#"{"hosts": ["tcp://127.0.0.1:1", "unix:///var/run/docker.sock"]}"#,
            None,
        ),
    ] {
        let start = Start {
            variables,
            json,
            ..SHELL
        };
        let [command, _] = environments(&start)?;
        let host = command
            .iter()
            .find(|variable| variable.starts_with("DOCKER_HOST="));
        assert_eq!(host.map(String::as_str), expected, "{variables:?} {json}");
    }
    let wrapdocker = Start {
        arguments: &["wrapdocker", "sh"],
        variables: &[("DOCKER_HOST", "tcp://docker:2375")],
        ..DAEMON
    };
    let [command, _] = environments(&wrapdocker)?;
    assert!(command.is_empty(), "{command:?}");
    Ok(())
}

#[test]
fn the_daemons_get_container_docker_only_without_apparmor() -> Result<(), Fault> {
    let nested = |apparmor| -> Result<[bool; 2], Fault> {
        let mut facts = bare_v1();
        facts.apparmor = apparmor;
        let engine = DAEMON.engine(&facts)?;
        let has = |program: &Program| {
            program
                .environment
                .iter()
                .any(|(name, _)| name == "container")
        };
        Ok([
            has(&engine.dockerd),
            engine.containerd.as_ref().is_some_and(has),
        ])
    };
    assert_eq!(nested(false)?, [true, true]);
    assert_eq!(nested(true)?, [false, false]);
    Ok(())
}

#[test]
fn a_missing_group_causes_one_warning() -> Result<(), Fault> {
    let mut facts = bare_v1();
    facts.socket_group = None;
    let said = |start: &Start<'_>| -> Result<usize, Fault> {
        let warnings = start.plan(&facts)?.warnings;
        Ok(warnings
            .iter()
            .filter(|warning| warning.code == "socket-group")
            .count())
    };
    assert_eq!(said(&DAEMON)?, 1);
    let no_group = Start {
        arguments: &["dind", "--group="],
        ..DAEMON
    };
    assert_eq!(said(&no_group)?, 0);
    Ok(())
}

#[test]
fn subcommands_are_dinds_whatever_contract_the_container_has() -> Result<(), Fault> {
    let request = |words: &[&str]| {
        let words = words.iter().map(OsString::from);
        let contract = (
            OsString::from("DIND_CONTRACT"),
            OsString::from("wrapdocker"),
        );
        request::request(&Config::read(words, [contract]))
    };
    assert!(matches!(request(&["dind", "health"])?, Request::Health(_)));
    assert!(matches!(
        request(&["dind", "plan"])?,
        Request::Plan(request::Start {
            contract: Contract::Wrapdocker,
            ..
        })
    ));
    assert!(matches!(
        request(&["wrapdocker", "health"])?,
        Request::Start(_)
    ));
    for words in [
        ["--wait", "soon"].as_slice(),
        &["--wait"],
        &["-x"],
        &["--wait=0"],
    ] {
        let fault = request(&[&["dind", "health"], words].concat()).err();
        assert!(
            fault.as_ref().is_some_and(|fault| fault.status == 2),
            "{words:?} {fault:?}"
        );
    }
    Ok(())
}

const NEST: Start<'_> = Start {
    arguments: &["dind", "nest", "3", "--", "docker", "info"],
    ..SHELL
};

#[test]
fn a_level_waits_for_the_one_inside_it() -> Result<(), Fault> {
    let (role, contract) = NEST.role(true, SocketState::Free)?;
    assert_eq!(contract, Contract::Dind);
    let Role::Session {
        command,
        levels_below,
        ..
    } = &role
    else {
        panic!("{role:?}");
    };
    let command: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    assert_eq!(
        command.join(" "),
        "dind nest 3 --level=1 --inside -- docker info"
    );
    assert_eq!(*levels_below, 2);
    let engine = NEST.engine(&bare_v1())?;
    assert!(engine.stop.command > engine.stop.total * 8 / 10);
    let alone = SHELL.engine(&bare_v1())?;
    assert!(alone.stop.command < alone.stop.total / 2);
    Ok(())
}

#[test]
fn the_innermost_level_is_a_start_like_any_other() -> Result<(), Fault> {
    for (words, expected) in [
        (&["dind", "nest", "1"][..], &["dind"][..]),
        (&["dind", "nest", "3", "--level=3"], &["dind"]),
        (
            &["dind", "nest", "3", "--level=3", "--", "dockerd", "--debug"],
            &["dind", "dockerd", "--debug"],
        ),
        (
            &["dind", "nest", "2", "--level=2", "--", "wrapdocker", "sh"],
            &["dind", "wrapdocker", "sh"],
        ),
    ] {
        let nested = Start {
            arguments: words,
            ..SHELL
        };
        let plain = Start {
            arguments: expected,
            ..SHELL
        };
        let role = |start: &Start<'_>| start.role(true, SocketState::Free);
        assert_eq!(role(&nested)?, role(&plain)?, "{words:?}");
    }
    Ok(())
}

#[test]
fn nest_needs_a_daemon_or_the_privilege_to_run_one() -> Result<(), Fault> {
    let (role, _) = NEST.role(true, SocketState::Live)?;
    assert!(matches!(role, Role::Client { .. }), "{role:?}");
    let fault = NEST.role(false, SocketState::Free).err();
    assert!(
        fault
            .as_ref()
            .is_some_and(|fault| fault.to_string().contains("--privileged")),
        "{fault:?}"
    );
    Ok(())
}
