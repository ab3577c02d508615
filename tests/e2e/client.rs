//! A container that is a client: of the daemon whose socket is mounted, of the one that
//! `DOCKER_HOST` names, or of none. No daemon is started and nothing is said.

use crate::docker::{BUSYBOX, Call, Network, Output, dind, docker, lab, unprivileged};
use crate::pty::Pty;

/// The output of a client, which has nothing of dind's in it.
#[track_caller]
fn silent(output: Output) -> String {
    assert_eq!(output.stderr, "", "{output:?}");
    output.text()
}

/// The flags of the recipe that shares the engine's own socket.
fn outer_socket() -> [String; 2] {
    let host = lab("DOCKER_HOST");
    let path = host
        .strip_prefix("unix://")
        .unwrap_or("/var/run/docker.sock");
    ["-v".into(), format!("{path}:/var/run/docker.sock")]
}

/// Without privileges a command is run as in any image.
#[test]
fn a_command_without_privileges_is_just_run() {
    let output = unprivileged().run(&["echo", "hi"]);
    assert_eq!(silent(output), "hi");
    let output = unprivileged().run(&["sh", "-c", "echo out; exit 7"]);
    assert_eq!(output.exited(7).stdout, "out\n");
    unprivileged()
        .run(&["no-such-command"])
        .exited(127)
        .says(&["dind: error: no-such-command: not found in PATH"]);
    // PID 1 becomes it, and with it are gone neither its name nor its descriptors.
    let output = unprivileged().run(&["cat", "/proc/1/comm"]);
    assert_eq!(silent(output), "cat");
}

/// The recipe with the engine's socket: siblings are started, nothing is nested.
#[test]
fn a_mounted_socket_starts_a_sibling() {
    for spec in [unprivileged(), dind()] {
        let shared = spec.flags(outer_socket());
        let output = shared.run(&["docker", "run", "--rm", BUSYBOX, "echo", "a sibling"]);
        assert_eq!(silent(output), "a sibling");
        let here = docker(["version", "--format", "{{.Server.Version}}"]).text();
        let there = shared.run(&["version", "--format", "{{.Server.Version}}"]);
        assert_eq!(silent(there), here, "docker comes before its subcommand");
        let mut pty = Pty::run(&shared, &[]);
        assert_eq!(pty.ask("docker version >/dev/null").1, 0);
        assert_eq!(pty.ask("pgrep dockerd").1, 1);
        pty.type_line("exit 3");
        assert_eq!(pty.wait(), 3);
    }
}

/// A socket that is mounted and dead is neither used nor replaced.
#[test]
fn a_dead_mounted_socket_is_an_error() {
    let scratch = crate::docker::Scratch::new();
    let mount = format!("{}:/var/run/docker.sock", scratch.path.display());
    let output = dind().flags(["-v", &mount]).run(&["echo", "hi"]).exited(1);
    output.says(&[
        "/var/run/docker.sock",
        "mounted from outside",
        "drop that mount",
    ]);
}

/// A daemon elsewhere is talked to, on plain TCP and with what the variables say.
#[test]
fn docker_host_elsewhere_is_used() {
    let daemon = dind()
        .env("DOCKER_TLS_CERTDIR", "")
        .flags(["--hostname", "daemon-of-this-test"])
        .ready(&[]);
    let link = ["--link".to_owned(), format!("{}:docker", daemon.name)];
    for spec in [unprivileged(), dind()] {
        let spec = spec.flags(link.clone());
        let elsewhere = spec.clone().env("DOCKER_HOST", "tcp://docker:2375");
        // `PORT` of a CI job is its own program's.
        for spec in [elsewhere.clone(), elsewhere.clone().env("PORT", "3000")] {
            let name = spec.run(&["info", "--format", "{{.Name}}"]);
            assert_eq!(silent(name), "daemon-of-this-test");
        }
        let mut pty = Pty::run(&elsewhere, &[]);
        let (name, _) = pty.ask("docker info --format '{{.Name}}'");
        assert_eq!(name, "daemon-of-this-test");
        pty.type_line("exit");
        assert_eq!(pty.wait(), 0);
        // The client's entrypoint finds a linked daemon by itself.
        for entrypoint in ["docker-entrypoint.sh", "dockerd-entrypoint.sh"] {
            let name = spec.clone().flags(["--entrypoint", entrypoint]).run(&[
                "info",
                "--format",
                "{{.Name}}",
            ]);
            assert_eq!(silent(name), "daemon-of-this-test");
        }
        let by_variable = spec.env("DIND_CONTRACT", "docker-entrypoint.sh").run(&[
            "docker",
            "info",
            "--format",
            "{{.Name}}",
        ]);
        assert_eq!(silent(by_variable), "daemon-of-this-test");
    }
}

/// The CLI's context is used where the CLI has it, and else nothing fails that did without.
#[test]
fn a_context_is_used_where_it_exists() {
    let daemon = dind()
        .env("DOCKER_TLS_CERTDIR", "")
        .flags(["--hostname", "behind-a-context"])
        .ready(&[]);
    let link = ["--link".to_owned(), format!("{}:other", daemon.name)];
    let script = "docker context create mine --docker host=tcp://other:2375 >/dev/null 2>&1
        unset DOCKER_HOST
        DOCKER_CONTEXT=mine exec dind docker-entrypoint.sh info --format '{{.Name}}'";
    let output = unprivileged().flags(link).run(&["sh", "-c", script]);
    assert_eq!(silent(output), "behind-a-context");
    let link = ["--link".to_owned(), format!("{}:docker", daemon.name)];
    let output = unprivileged().flags(link).env("DOCKER_CONTEXT", "remote");
    let output = output.run(&["info", "--format", "{{.Name}}"]);
    let output = output.says(&["dind: warning: DOCKER_CONTEXT=\"remote\" counts as not set"]);
    assert_eq!(output.text(), "behind-a-context");
    // Beside a daemon of one's own that one is meant.
    let output = dind().env("DOCKER_CONTEXT", "remote");
    let output = output.run(&["info", "--format", "{{.ServerVersion}}"]);
    let output = output.says(&["dind: warning: not passed to the command", "DOCKER_CONTEXT"]);
    assert!(!output.text().is_empty());
}

/// A rootless daemon of this user is found by its socket, as docker:cli finds it.
#[test]
fn a_rootless_socket_is_found() {
    for (path, directory) in [("/run/user/0", ""), ("/run/own", "/run/own")] {
        let daemon = dind()
            .env("DOCKER_HOST", &format!("unix://{path}/docker.sock"))
            .flags(["--hostname", "by-its-socket"])
            .ready(&[]);
        let directory = format!("XDG_RUNTIME_DIR={directory}");
        let flags = ["-e", "DOCKER_HOST=", "-e", &directory];
        let words = [
            "dind",
            "docker-entrypoint.sh",
            "info",
            "--format",
            "{{.Name}}",
        ];
        let output = daemon.exec_call(&flags, &words).finish();
        assert_eq!(silent(output), "by-its-socket");
    }
}

/// A line's end from a file, or from a block of YAML, is no part of an address.
#[test]
fn blanks_around_an_address_are_not_part_of_it() {
    let daemon = dind()
        .env("DOCKER_HOST", " unix:///run/own.sock\n")
        .env("DOCKER_TLS_CERTDIR", " ")
        .flags(["--hostname", "without-blanks"])
        .ready(&[]);
    daemon.logged(&[
        "docker is ready",
        "on unix:///run/own.sock and tcp://0.0.0.0:2375",
    ]);
    let link = ["--link".to_owned(), format!("{}:docker", daemon.name)];
    let client = unprivileged()
        .flags(link)
        .env("DOCKER_HOST", "tcp://docker:2375\n");
    let name = client.run(&[
        "sh",
        "-c",
        "docker info --format '{{.Name}}'; echo \"$DOCKER_HOST\"",
    ]);
    assert_eq!(silent(name), "without-blanks\ntcp://docker:2375");
}

/// The official recipe without TLS: a network, the alias `docker`, and nothing else, or
/// `DOCKER_HOST`; whoever the client's user is.
#[test]
fn a_plain_daemon_is_found_over_a_network() {
    let network = Network::new();
    let on_it = ["--network", network.name.as_str()];
    let _daemon = dind()
        .env("DOCKER_TLS_CERTDIR", "")
        .flags(on_it)
        .flags(["--network-alias", "docker", "--hostname", "over-a-network"])
        .ready(&[]);
    let client = unprivileged().flags(on_it);
    for spec in [
        client.clone(),
        client
            .clone()
            .flags(["--entrypoint", "docker-entrypoint.sh"]),
        client.clone().env("DOCKER_HOST", "tcp://docker:2375"),
        client.flags(["--user", "1000"]),
    ] {
        let name = spec.run(&["info", "--format", "{{.Name}}"]);
        assert_eq!(silent(name), "over-a-network");
    }
}

/// In a container that has a daemon, dind is a client of it.
#[test]
fn beside_a_daemon_dind_is_its_client() {
    let container = dind().ready(&[]);
    let inner = container.exec(&["dind", "info", "--format", "{{.Name}}"]);
    assert_eq!(silent(inner), container.text(&["hostname"]));
    let elsewhere = container
        .exec_call(
            &["-e", "DOCKER_HOST=unix:///run/other.sock"],
            &["dind", "true"],
        )
        .finish()
        .exited(1);
    elsewhere.says(&["already runs here"]);
    container.exec(&["test", "-e", "/run/other.sock"]).exited(1);
    container.text(&["docker", "version"]);
}

/// What dind takes for docker's own words is what docker takes for them.
#[test]
fn dockers_own_words_are_those_of_docker_help() {
    let script = r#"
        words=$(docker --help | sed -n 's/^  \([a-z]\{2,\}\)\*\{0,1\}  .*/\1/p'
                for directory in $(echo "$PATH" | tr : ' '); do ls "$directory"; done | grep -E '^[a-z]{2,4}$')
        for word in $words; do
            if docker help "$word" >/dev/null 2>&1; then wanted=docker; else wanted=$word; fi
            first=$(dind plan docker-entrypoint.sh "$word" | tr -d "'" | sed -n 's/^become: \([^ ]*\).*/\1/p')
            [ "$first" = "$wanted" ] || echo "$word: $first, not $wanted"
            [ "$wanted" = docker ] && known=$((known + 1))
        done
        echo "$known known""#;
    let output = unprivileged()
        .flags(["--entrypoint", "sh"])
        .run(&["-c", script]);
    let said = output.text();
    let count: usize = said.trim_end_matches(" known").parse().unwrap_or_default();
    assert!(count > 40, "{said}");
}

/// A subcommand of docker's beside a daemon of one's own.
#[test]
fn a_subcommand_runs_beside_a_daemon() {
    let output = dind().run(&["ps", "--format", "{{.Names}}"]);
    assert_eq!(output.exited(0).stdout, "");
    let output = dind().run(&["info", "--format", "{{.ServerVersion}}"]);
    let version = docker(["version", "--format", "{{.Client.Version}}"]).text();
    assert!(!output.text().is_empty(), "{version}");
}

/// `docker run -i` with a script on standard input and no privileges: the script may not
/// need any, but a shell with no daemon is not what was asked for.
#[test]
fn nobodys_client_is_told_of_the_flag() {
    let (_container, words) = unprivileged().attached(&["--interactive"], &[]);
    Call::new(words).finish().exited(1).says(&["--privileged"]);
    let mut pty = Pty::run(&unprivileged(), &[]);
    pty.expect("start it with --privileged");
    assert_eq!(pty.wait(), 1);
}
