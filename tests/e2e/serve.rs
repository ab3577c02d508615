//! The daemon in the foreground: how it is asked for, and how it is reached.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;

use crate::daemons::{held_dockerd, wait_held};
use crate::docker::{BUSYBOX, Call, Container, Scratch, Spec, deadline, dind, docker, lab};

/// Without TLS, which has tests of its own.
fn plain() -> Spec {
    dind().env("DOCKER_TLS_CERTDIR", "")
}

/// What `docker info` in the container says of one thing.
#[track_caller]
fn info(container: &Container, format: &str) -> String {
    container.text(&["docker", "info", "--format", format])
}

/// `PORT` serves on that port, loudly, to a real client on the other side of a
/// published port.
#[test]
fn port_is_reached_through_a_published_port() {
    let container = dind()
        .env("PORT", "4444")
        .flags(["-p", "127.0.0.1::4444"])
        .ready(&[]);
    container.logged(&[
        "dind: warning: tcp://0.0.0.0:4444",
        "no TLS",
        "WHOEVER REACHES THIS PORT IS ROOT",
    ]);
    let host = container.published(4444);
    let version = docker(["-H", &host, "version", "--format", "{{.Server.Version}}"]).text();
    assert_eq!(info(&container, "{{.ServerVersion}}"), version);
    Call::new(["-H", &host, "load", "--quiet"])
        .stdin(lab("DIND_LAB_BUSYBOX").as_ref())
        .finish()
        .exited(0);
    let said = docker([
        "-H",
        &host,
        "run",
        "--rm",
        BUSYBOX,
        "echo",
        "through the port",
    ])
    .text();
    assert_eq!(said, "through the port");
}

/// With `PORT` a command is not run, as in wrapdocker, and that is said.
#[test]
fn port_wins_over_a_command() {
    for contract in ["dind", "wrapdocker"] {
        let container = dind()
            .env("PORT", "4444")
            .env("DIND_CONTRACT", contract)
            .ready(&["touch", "/it-ran"]);
        container.logged(&["dind: warning: PORT is set", "touch /it-ran"]);
        container.exec(&["test", "-e", "/it-ran"]).exited(1);
        container.text(&["docker", "-H", "tcp://127.0.0.1:4444", "version"]);
    }
}

/// `docker run -d` with no command serves on the port that is customary.
#[test]
fn no_command_and_no_stdin_serves_on_2375() {
    let container = plain().flags(["-p", "127.0.0.1::2375"]).ready(&[]);
    container.logged(&["dind: warning: tcp://0.0.0.0:2375", "no TLS"]);
    let host = container.published(2375);
    docker(["-H", &host, "version"]).exited(0);
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "inside"]), "inside");
}

/// A client that is there before the daemon is held and answered. It connects as
/// soon as there is a socket, and is at no time refused.
#[test]
fn a_client_of_the_first_moment_is_answered() {
    let scratch = Scratch::new();
    let socket = scratch.path.join("docker.sock");
    let container = dind()
        .flags(scratch.mounted_on("/sock"))
        .env("DOCKER_HOST", "unix:///sock/docker.sock")
        .create(&[]);
    let (sender, answers) = mpsc::channel();
    thread::spawn(move || {
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                // Not a sleep: this is the client that does not want to wait.
                Err(error) if error.kind() == ErrorKind::NotFound => thread::yield_now(),
                Err(error) => {
                    let _ = sender.send(Err(error));
                    return;
                }
            }
        };
        let _ = sender.send(ping(stream));
    });
    container.docker(&["start"]).exited(0);
    let answer = answers
        .recv_timeout(deadline())
        .expect("an answer before the deadline")
        .expect("a client that finds the socket is not refused");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

/// Asks the API whether it is there.
fn ping(mut stream: impl Read + Write) -> std::io::Result<String> {
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Both sockets take clients when dockerd has not even begun, and these are answered
/// when it has.
#[test]
fn clients_are_held_until_dockerd_is_there() {
    let scratch = Scratch::new();
    let container = held_dockerd(plain())
        .flags(scratch.mounted_on("/sock"))
        .flags(["-p", "127.0.0.1::2375"])
        .env("DOCKER_HOST", "unix:///sock/docker.sock")
        .start(&[]);
    wait_held(&container);
    let near = UnixStream::connect(scratch.path.join("docker.sock")).expect("a connection");
    let address = container.published(2375);
    let far = TcpStream::connect(address.trim_start_matches("tcp://")).expect("a connection");
    let (sender, answers) = mpsc::channel();
    let other_sender = sender.clone();
    thread::spawn(move || sender.send(ping(near)));
    thread::spawn(move || other_sender.send(ping(far)));
    container.sh("echo go >/gate");
    for _ in 0..2 {
        let answer = answers
            .recv_timeout(deadline())
            .expect("an answer before the deadline")
            .expect("a connection that lasts");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
}

/// Arguments that begin with `-` are dockerd's, and it is served as without any.
#[test]
fn flags_alone_serve_and_reach_dockerd() {
    let container = plain().ready(&["--debug", "--label", "given=on the command line"]);
    assert_eq!(info(&container, "{{.Debug}}"), "true");
    assert_eq!(
        info(&container, "{{.Labels}}"),
        "[given=on the command line]"
    );
    container.text(&["docker", "-H", "tcp://127.0.0.1:2375", "version"]);
}

/// A literal `dockerd …` listens on what it says, and on nothing else.
#[test]
fn a_literal_dockerd_listens_where_it_says() {
    let container = dind().ready(&["dockerd", "-H", "unix:///run/own.sock"]);
    container.text(&["docker", "-H", "unix:///run/own.sock", "version"]);
    container
        .exec(&["test", "-e", "/var/run/docker.sock"])
        .exited(1);
    container
        .exec(&["docker", "-H", "tcp://127.0.0.1:2375", "version"])
        .exited(1);
    container.not_logged(&["no TLS"]);
}

/// A literal `dockerd` that says nothing of sockets has dockerd's default, alone.
#[test]
fn a_literal_dockerd_has_the_default_socket() {
    let container = dind().ready(&["dockerd"]);
    container.text(&["docker", "-H", "unix:///var/run/docker.sock", "version"]);
    container
        .exec(&["docker", "-H", "tcp://127.0.0.1:2375", "version"])
        .exited(1);
}

/// `DOCKER_DAEMON_ARGS` is split as a shell splits words.
#[test]
fn the_variable_may_have_quotes() {
    let container = dind()
        .env(
            "DOCKER_DAEMON_ARGS",
            r#"--label "a=b c" --label='d=$HOME "e"'"#,
        )
        .ready(&[]);
    let labels = container.text(&[
        "docker",
        "info",
        "--format",
        "{{range .Labels}}<{{.}}>{{end}}",
    ]);
    let mut labels: Vec<&str> = labels.split_inclusive('>').collect();
    labels.sort_unstable();
    assert_eq!(labels, ["<a=b c>", "<d=$HOME \"e\">"]);
}

/// `DOCKER_DAEMON_ARGS` reaches the daemon of a session too.
#[test]
fn the_variable_reaches_a_sessions_daemon() {
    let output = dind()
        .env("DOCKER_DAEMON_ARGS", "--label session=yes")
        .run(&["docker", "info", "--format", "{{.Labels}}"]);
    assert_eq!(output.text(), "[session=yes]");
}

/// The command line stands after `DOCKER_DAEMON_ARGS`, and so wins.
#[test]
fn the_command_line_wins_over_the_variable() {
    let container = dind()
        .env("DOCKER_DAEMON_ARGS", "--log-driver=none --debug")
        .ready(&["--log-driver=local"]);
    assert_eq!(info(&container, "{{.LoggingDriver}}"), "local");
    assert_eq!(info(&container, "{{.Debug}}"), "true");
}

/// `hosts` in daemon.json stops a dockerd that also gets `-H`; so it gets none, and
/// listens on what the file says.
#[test]
fn hosts_in_daemon_json_are_left_to_dockerd() {
    let hosts = r#"{"hosts": ["unix:///var/run/docker.sock", "unix:///run/second.sock"]}"#;
    let container = dind()
        .prelude(&format!(
            "mkdir -p /etc/docker; echo '{hosts}' >/etc/docker/daemon.json"
        ))
        .ready(&[]);
    container.text(&["docker", "version"]);
    container.text(&["docker", "-H", "unix:///run/second.sock", "version"]);
}

/// A `-H` of the user's is added to ours; one that we have already is not fought
/// over, in whatever spelling.
#[test]
fn a_host_of_the_users_is_added() {
    let container = plain()
        .env("DOCKER_DAEMON_ARGS", "--host=unix:///var/run/docker.sock")
        .ready(&[
            "-H",
            "unix:///var/run/docker.sock",
            "-Htcp://0.0.0.0:2375",
            "-H=unix:///run/second.sock",
        ]);
    for host in [
        "unix:///var/run/docker.sock",
        "unix:///run/second.sock",
        "tcp://127.0.0.1:2375",
    ] {
        container.text(&["docker", "-H", host, "version"]);
    }
}

/// CI systems hand a job's variables to its service containers: `DOCKER_HOST` of
/// another daemon does not keep a container from serving.
#[test]
fn a_jobs_docker_host_does_not_stop_a_service() {
    let container = dind()
        .env("DOCKER_HOST", "tcp://docker:2375")
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", "/certs/client")
        .ready(&[]);
    container.logged(&["dind: docker is ready", "unix:///var/run/docker.sock"]);
    container
        .exec_call(
            &["-e", "DOCKER_HOST=", "-e", "DOCKER_TLS_VERIFY="],
            &["docker", "version"],
        )
        .finish()
        .exited(0);
}

/// `DOCKER_HOST=unix://…` with no daemon behind it is where ours listens.
#[test]
fn docker_host_may_name_our_own_socket() {
    let container = dind()
        .env("DOCKER_HOST", "unix:///run/mine/docker.sock")
        .ready(&[]);
    container.text(&["docker", "version"]);
    container.text(&["test", "-S", "/run/mine/docker.sock"]);
    container
        .exec(&["test", "-e", "/var/run/docker.sock"])
        .exited(1);
}

/// The socket is for root and the group `docker`: whoever can connect is root.
#[test]
fn the_socket_is_for_root_and_the_group_docker() {
    let container = dind().ready(&[]);
    assert_eq!(
        container.text(&["stat", "-c", "%a %U:%G", "/var/run/docker.sock"]),
        "660 root:docker"
    );
    let other = dind().ready(&["--group", "adm"]);
    assert_eq!(
        other.text(&["stat", "-c", "%a %U:%G", "/var/run/docker.sock"]),
        "660 root:adm"
    );
}

/// Without that group the socket is root's: one line says so, and the daemon works.
#[test]
fn without_its_group_the_socket_is_roots() {
    for (spec, words, group) in [
        (dind(), &["--group", "nosuch"][..], "\"nosuch\""),
        (dind().prelude("groupdel docker"), &[], "\"docker\""),
    ] {
        let container = spec.ready(words);
        let logs = container.logs();
        let said = logs.lines().filter(|line| line.contains("no group"));
        let said: Vec<&str> = said.collect();
        assert!(
            said.len() == 1 && said[0].starts_with("dind: warning:") && said[0].contains(group),
            "{said:?}"
        );
        let socket = container.text(&["stat", "-c", "%a %U:%G", "/var/run/docker.sock"]);
        assert_eq!(socket, "660 root:root");
        info(&container, "{{.ServerVersion}}");
        container
            .exec_call(&["--user", "1000:1000"], &["docker", "version"])
            .finish()
            .exited(1)
            .says(&["permission denied"]);
    }
}

/// `LOG=file` sends the daemons' output to wrapdocker's file, and nowhere else.
#[test]
fn log_file_takes_the_daemons_output() {
    let container = dind().env("LOG", "file").ready(&[]);
    container.logged(&["dind: docker is ready", "/var/log/docker.log"]);
    container.not_logged(&["API listen on"]);
    let log = container.text(&["cat", "/var/log/docker.log"]);
    assert!(log.contains("API listen on"), "{log}");
}
