//! daemon.json and dockerd's flags, read together as dockerd reads them.

use crate::docker::{Container, Spec, dind, unprivileged};

fn with_json(json: &str) -> Spec {
    dind().prelude(&format!(
        "mkdir -p /etc/docker; echo '{json}' >/etc/docker/daemon.json"
    ))
}

#[track_caller]
fn dockerd(container: &Container) -> String {
    container.sh("tr '\\0' ' ' </proc/$(pgrep -x dockerd)/cmdline")
}

/// What the file says is where things are: nothing is made where it would be by default.
#[test]
fn the_files_paths_are_used() {
    let container = with_json(
        r#"{"data-root": "/var/lib/docker/there", "exec-root": "/run/there", "pidfile": "/run/there.pid",
            "group": "adm", "shutdown-timeout": 3, "debug": true}"#,
    )
    .ready(&[]);
    let info = container.text(&[
        "docker",
        "info",
        "--format",
        "{{.DockerRootDir}} {{.Debug}}",
    ]);
    assert_eq!(info, "/var/lib/docker/there true");
    for path in [
        "/var/lib/docker/there/containerd/daemon",
        "/run/there/containerd/containerd.sock",
        "/run/there.pid",
    ] {
        container.text(&["test", "-e", path]);
    }
    for path in [
        "/var/lib/docker/containerd",
        "/run/docker.pid",
        "/run/docker/containerd",
    ] {
        container.exec(&["test", "-e", path]).exited(1);
    }
    let socket = container.text(&["stat", "-c", "%a %U:%G", "/var/run/docker.sock"]);
    assert_eq!(socket, "660 root:adm");
    assert!(
        !dockerd(&container).contains("--shutdown-timeout"),
        "dockerd would refuse both"
    );
}

/// The flags win, in every spelling.
#[test]
fn flags_win_in_every_spelling() {
    let container = with_json(r#"{"log-level": "warn"}"#).ready(&[
        "-D",
        "-Gadm",
        "--data-root",
        "/var/lib/docker/flag",
        "--exec-root=/run/flag",
        "-p",
        "/run/flag.pid",
        "-Hunix:///run/second.sock",
        "--label=a=b",
    ]);
    let info = container.text(&[
        "docker",
        "info",
        "--format",
        "{{.DockerRootDir}} {{.Debug}} {{.Labels}}",
    ]);
    assert_eq!(info, "/var/lib/docker/flag true [a=b]");
    container.text(&["docker", "-H", "unix:///run/second.sock", "version"]);
    container.text(&["test", "-e", "/run/flag.pid"]);
    let socket = container.text(&["stat", "-c", "%G", "/var/run/docker.sock"]);
    assert_eq!(socket, "adm");
}

/// The file elsewhere, and containerd of the user's own.
#[test]
fn the_file_may_be_elsewhere_and_containerd_ones_own() {
    let container = dind()
        .prelude(
            r#"containerd --address /run/own.sock --root /var/lib/docker/own --state /run/own >/own.log 2>&1 &
               until [ -S /run/own.sock ]; do sleep 0.1; done
               echo '{"containerd": "/run/own.sock", "labels": ["from=elsewhere"]}' >/elsewhere.json"#,
        )
        .ready(&["--config-file", "/elsewhere.json"]);
    assert_eq!(
        container.text(&["docker", "info", "--format", "{{.Labels}}"]),
        "[from=elsewhere]"
    );
    assert_eq!(container.text(&["pgrep", "-c", "-x", "containerd"]), "1");
    let missing = dind().run(&["--config-file=/missing.json"]).exited(1);
    missing.says(&["dind: error:", "/missing.json"]);
}

/// TLS of the file's is dockerd's own affair: no flag is fought over, nothing is made.
#[test]
fn the_files_tls_is_used() {
    let container = dind()
        .prelude(
            r#"mkdir -p /etc/docker /own; cd /own
               openssl req -x509 -newkey rsa:2048 -nodes -days 5 -subj /CN=own -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem
               cp cert.pem ca.pem
               echo '{"tlsverify": true, "tlscacert": "/own/ca.pem", "tlscert": "/own/cert.pem", "tlskey": "/own/key.pem"}' >/etc/docker/daemon.json"#,
        )
        .ready(&[]);
    container
        .sh("DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/own docker -H tcp://localhost:2376 version");
    container
        .exec(&["docker", "-H", "tcp://localhost:2376", "version"])
        .exited(1);
    container.exec(&["test", "-e", "/certs/ca"]).exited(1);
    container.not_logged(&["no TLS"]);
}

/// With `hosts` in the file the command's docker still finds the daemon.
#[test]
fn the_files_hosts_are_the_commands_too() {
    let output = with_json(r#"{"hosts": ["unix:///run/only.sock"]}"#)
        .run(&["docker", "info", "--format", "up"]);
    assert_eq!(output.text(), "up");
}

/// What dockerd only prints or checks, it does here, with its status.
#[test]
fn what_dockerd_prints_and_checks_it_does() {
    let dockerd = |words: &[&str]| unprivileged().flags(["--entrypoint", "dockerd"]).run(words);
    for word in ["--version", "--help"] {
        let theirs = dockerd(&[word]).text();
        assert_eq!(dind().run(&["dockerd", word]).text(), theirs);
        assert_eq!(dind().run(&["-D", word]).text(), theirs);
    }
    let fine = with_json(r#"{"debug": true}"#)
        .run(&["--validate"])
        .exited(0);
    assert!((fine.stdout + &fine.stderr).contains("configuration OK"));
    let wrong = with_json(r#"{"no-such-option": true}"#)
        .run(&["--validate"])
        .exited(1);
    assert!((wrong.stdout + &wrong.stderr).contains("no-such-option"));
    let by_variable =
        with_json(r#"{"no-such-option": true}"#).env("DOCKER_DAEMON_ARGS", "--validate");
    by_variable.run(&["-D"]).exited(1);
}
