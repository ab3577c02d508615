//! Two engines in one network namespace.

use std::collections::BTreeSet;

use crate::docker::{BUSYBOX, Container, dind, unprivileged};

/// Serves one file, with a name in it.
fn httpd(name: &str) -> [String; 3] {
    let script = format!("mkdir /www; echo '{name}' >/www/index.html; exec httpd -f -h /www");
    ["sh".into(), "-c".into(), script]
}

/// Runs a server inside that has published a port, and returns its address.
#[track_caller]
fn publish(engine: &Container, name: &str, port: u16) -> String {
    engine.load_busybox();
    let published = format!("{port}:80");
    let mut words = vec![
        "docker",
        "run",
        "-d",
        "--name=web",
        "-p",
        &published,
        BUSYBOX,
    ];
    let server = httpd(name);
    words.extend(server.iter().map(String::as_str));
    engine.text(&words);
    engine.text(&[
        "docker",
        "inspect",
        "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        "web",
    ])
}

/// The rules of the packet filter that the engine uses, without their counters.
#[track_caller]
fn rules(engine: &Container) -> BTreeSet<String> {
    let text = engine.sh("PATH=/run/dind-iptables-legacy:$PATH iptables-save 2>/dev/null");
    let rules = text.lines().filter(|line| line.starts_with("-A"));
    rules.map(str::to_owned).collect()
}

/// The second engine has a bridge and addresses of its own, the rules of the first one stay, and
/// both have published ports, and a way out: in this test, to another container.
#[test]
fn a_second_engine_leaves_the_first_one_alone() {
    let server = httpd("outside");
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    let outside = unprivileged().image(BUSYBOX).start(&server);
    let outside_address = outside.text(&["hostname", "-i"]);
    let way_out = format!("http://{outside_address}/");

    let first = dind().ready(&[]);
    first.not_logged(&["another Docker engine"]);
    let first_web = publish(&first, "first", 8081);
    let address = first.text(&["hostname", "-i"]);
    let before = rules(&first);
    assert!(
        before.iter().any(|rule| rule.contains("8081")),
        "{before:?}"
    );

    let second = dind()
        .flags(["--network", &format!("container:{}", first.name)])
        // The first one has the port for TLS.
        .env("DOCKER_TLS_CERTDIR", "")
        .ready(&[]);
    second.logged(&[
        "dind: warning: another Docker engine is in this network namespace",
        "uses the bridge dind-",
        "give this container a network of its own",
    ]);
    let second_web = publish(&second, "second", 8082);
    assert_ne!(first_web, second_web);
    // A network that a user makes has others, too.
    second.text(&["docker", "network", "create", "made"]);
    let user = second.inner(&["--network=made"], &["hostname", "-i"]);
    assert_ne!(user, first_web);

    let works = |engines: [&Container; 2]| {
        let after = rules(&first);
        let lost: Vec<_> = before.difference(&after).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let new = after
            .difference(&before)
            .filter(|rule| rule.contains("DOCKER"));
        assert_eq!(new.count(), 0, "{after:?}");
        for engine in engines {
            for flags in [&[][..], &["--network=made"]] {
                if flags.is_empty() || engine.name == second.name {
                    assert_eq!(engine.inner(flags, &["wget", "-qO-", &way_out]), "outside");
                }
            }
        }
        for (port, expected) in [(8081, "first"), (8082, "second")] {
            let url = format!("http://{address}:{port}/");
            assert_eq!(outside.text(&["wget", "-qO-", &url]), expected);
        }
    };
    works([&first, &second]);
    let found = second.text(&["dind", "doctor", "--json"]);
    assert!(found.contains("\"engine-beside\""), "{found}");

    // Killed, it leaves its bridge, and finds it again, with the same addresses.
    let bridge = "docker network inspect bridge --format '{{json .IPAM.Config}}'";
    let network = second.sh(bridge);
    second.signal("KILL");
    second.wait();
    second.docker(&["start"]).exited(0);
    second.wait_ready_times(2);
    assert_eq!(second.sh(bridge), network);
    second.text(&["docker", "start", "web"]);
    works([&second, &first]);

    // Stopped, it takes its bridge and its rules away.
    let owns = |what: &str| {
        first.sh(&format!(
            "{{ ip -o link; iptables-save; }} | grep -c {what}; true"
        ))
    };
    assert_ne!(owns("dind-"), "0");
    second.docker(&["stop"]).exited(0);
    assert_eq!(owns("dind-"), "0");
}
