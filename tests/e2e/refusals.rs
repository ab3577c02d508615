//! Starts that cannot be: one line says why and what to do.

use std::os::unix::net::UnixListener;

use crate::docker::{Output, Scratch, dind, unprivileged};
use crate::pty::Pty;

/// The one line of an output, which must be all there is.
#[track_caller]
fn only_line(output: &Output) -> &str {
    assert_eq!(output.stdout, "");
    let lines: Vec<&str> = output.stderr.lines().collect();
    let [line] = lines[..] else {
        panic!("one line is wanted: {lines:?}");
    };
    line
}

/// Not privileged: one line names the flag, whatever was asked for.
#[test]
fn without_privileges_the_flag_is_named() {
    for command in [
        &[][..],
        &["echo", "hi"],
        &["--debug"],
        &["dockerd"],
        &["hack-dind", "true"],
    ] {
        let output = unprivileged().run(command).exited(1);
        let line = only_line(&output);
        assert!(line.starts_with("dind: error: "), "{line}");
        assert!(line.contains("--privileged"), "{line}");
    }
    let output = unprivileged().env("PORT", "4444").run(&[]).exited(1);
    assert!(only_line(&output).contains("--privileged"));
}

/// The same at a terminal.
#[test]
fn without_privileges_a_terminal_is_told_too() {
    let mut pty = Pty::run(&unprivileged(), &[]);
    pty.expect("start it with --privileged");
    assert_eq!(pty.wait(), 1);
}

/// In wrapdocker's place it dies with wrapdocker's words, which others grep for.
#[test]
fn wrapdocker_without_privileges_dies_with_its_old_words() {
    for spec in [
        unprivileged().flags(["--entrypoint", "wrapdocker"]),
        unprivileged().env("DIND_CONTRACT", "wrapdocker"),
    ] {
        let output = spec.run(&["true"]).exited(1);
        assert!(
            only_line(&output).ends_with("Could not make a tmpfs mount. Did you use --privileged?"),
            "{}",
            output.stderr
        );
    }
}

/// No dockerd in PATH: 127, and where it was sought.
#[test]
fn without_dockerd_it_is_127() {
    for command in [&[][..], &["/bin/true"], &["dockerd"]] {
        let output = dind()
            .env("PATH", "/nowhere")
            .flags(["--entrypoint", "/usr/local/bin/dind"])
            .run(command)
            .exited(127);
        let line = only_line(&output);
        for part in ["dind: error:", "dockerd", "/nowhere"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}

/// A socket that is mounted from outside cannot be replaced: `PORT` says which of
/// the two is to go.
#[test]
fn a_mounted_socket_and_port_are_one_too_many() {
    let scratch = Scratch::new();
    let socket = scratch.path.join("outer.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket in /tmp");
    let mount = format!("{}:/var/run/docker.sock", socket.display());
    let output = dind()
        .env("PORT", "4444")
        .flags(["-v", &mount])
        .run(&[])
        .exited(1);
    let line = only_line(&output);
    for part in [
        "/var/run/docker.sock",
        "mounted from outside",
        "drop that mount",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(socket.exists(), "and it is left where it is");
}

/// What a client is to do is not in this version: a clear error and no daemon.
#[test]
fn a_client_is_refused() {
    let scratch = Scratch::new();
    let socket = scratch.path.join("outer.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket in /tmp");
    let mount = format!("{}:/var/run/docker.sock", socket.display());
    for (spec, reason) in [
        (dind().flags(["-v", &mount]), "/var/run/docker.sock"),
        (
            dind().env("DOCKER_HOST", "tcp://docker:2375"),
            "DOCKER_HOST=tcp://docker:2375",
        ),
        (
            unprivileged().env("DOCKER_HOST", "tcp://docker:2375"),
            "DOCKER_HOST=tcp://docker:2375",
        ),
    ] {
        let output = spec.run(&["echo", "hi"]).exited(1);
        let line = only_line(&output);
        assert!(line.contains(reason), "{line}");
        assert!(line.contains("not in this version"), "{line}");
    }
}

/// TLS is not in this version: a clear error that says how to go without.
#[test]
fn tls_is_refused() {
    let with_tls = || dind().env("DOCKER_TLS_CERTDIR", "/certs");
    for (spec, command) in [
        (with_tls(), &[][..]),
        (with_tls(), &["--debug"]),
        (with_tls(), &["echo", "hi"]),
        (with_tls().env("PORT", "2376"), &[]),
    ] {
        let output = spec.run(command).exited(1);
        let line = only_line(&output);
        for part in [
            "DOCKER_TLS_CERTDIR",
            "not in this version",
            "-e DOCKER_TLS_CERTDIR=",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}

/// `PORT` never had TLS, and wrapdocker knew nothing of it: these go on.
#[test]
fn port_and_wrapdocker_need_no_tls() {
    let container = dind()
        .env("DOCKER_TLS_CERTDIR", "/certs")
        .env("PORT", "4444")
        .ready(&[]);
    container.text(&["docker", "-H", "tcp://127.0.0.1:4444", "version"]);
    let output = dind()
        .env("DOCKER_TLS_CERTDIR", "/certs")
        .run(&["wrapdocker", "echo", "hi"]);
    assert_eq!(output.text(), "hi");
}

/// The entrypoints of docker-library are not in this version: said, not guessed at.
#[test]
fn docker_librarys_entrypoints_are_refused() {
    for name in ["dockerd-entrypoint.sh", "docker-entrypoint.sh"] {
        let output = dind().flags(["--entrypoint", name]).run(&[]).exited(1);
        let line = only_line(&output);
        assert!(
            line.contains(name) && line.contains("not in this version"),
            "{line}"
        );
    }
}

/// A second daemon beside one that runs would take its files away.
#[test]
fn a_second_daemon_is_refused() {
    let container = dind().ready(&[]);
    let again = container.exec(&["dind", "true"]).exited(1);
    assert!(only_line(&again).contains("already answers on /var/run/docker.sock"));
    let elsewhere = container
        .exec_call(
            &["-e", "DOCKER_HOST=unix:///run/other.sock"],
            &["dind", "true"],
        )
        .finish()
        .exited(1);
    assert!(only_line(&elsewhere).contains("already runs here"));
    container.text(&["docker", "version"]);
    container.exec(&["test", "-e", "/run/other.sock"]).exited(1);
}

/// A port that somebody has is said as such.
#[test]
fn a_port_that_is_taken_is_named() {
    let container = dind().ready(&[]);
    let network = format!("container:{}", container.name);
    let output = dind()
        .flags(["--network", &network])
        .env("PORT", "2375")
        .run(&[])
        .exited(1);
    output.says(&["dind: error:", "2375", "set PORT to one that is free"]);
}
