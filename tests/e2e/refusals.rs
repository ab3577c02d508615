//! Starts that cannot be: one line says why and what to do.

use std::fs;
use std::os::unix::net::UnixListener;

use crate::docker::{Output, Scratch, Volume, dind, unprivileged};

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
    for command in [&[][..], &["--debug"], &["dockerd"], &["hack-dind", "true"]] {
        let output = unprivileged().run(command).exited(1);
        let line = only_line(&output);
        assert!(line.starts_with("dind: error: "), "{line}");
        assert!(line.contains("--privileged"), "{line}");
    }
    let output = unprivileged().env("PORT", "4444").run(&[]).exited(1);
    assert!(only_line(&output).contains("--privileged"));
}

/// Privileged, with a user who is not root: the user is named, and not the flag that is there.
#[test]
fn a_user_who_is_not_root_is_named() {
    for command in [&[][..], &["--debug"], &["dockerd"], &["hack-dind", "true"]] {
        let output = dind().flags(["--user", "1000"]).run(command).exited(1);
        let line = only_line(&output);
        assert!(
            line.starts_with("dind: error: this process is user 1000, not root"),
            "{line}"
        );
        assert!(
            line.ends_with("--user 0 if the image names a user"),
            "{line}"
        );
        assert!(!line.contains("--privileged"), "{line}");
    }
    let output = dind()
        .flags(["--user", "1000"])
        .run(&["wrapdocker"])
        .exited(1);
    let line = only_line(&output);
    assert!(
        line.contains("Did you use --privileged?; this process is user 1000"),
        "{line}"
    );
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

/// A second daemon beside one that runs would take its files away.
#[test]
fn a_second_daemon_is_refused() {
    let container = dind().ready(&[]);
    for words in [&["dind", "--debug"][..], &["wrapdocker", "true"]] {
        let again = container.exec(words).exited(1);
        assert!(only_line(&again).contains("already answers on /var/run/docker.sock"));
    }
    container.text(&["docker", "version"]);
}

/// A port that somebody has is said as such.
#[test]
fn a_port_that_is_taken_is_named() {
    let plain = || dind().env("DOCKER_TLS_CERTDIR", "");
    let container = plain().ready(&[]);
    let network = format!("container:{}", container.name);
    let output = plain()
        .flags(["--network", &network])
        .env("PORT", "2375")
        .run(&[])
        .exited(1);
    output.says(&["dind: error:", "2375", "free the port, or use another"]);
}

/// The sockets are bound before most faults are found. None is left behind, wherever the start
/// ends.
#[test]
fn a_start_that_fails_leaves_no_socket() {
    let scratch = Scratch::new();
    let volume = Volume::new();
    let spec = dind()
        .flags(scratch.mounted_on("/sockets"))
        .env("DOCKER_HOST", "unix:///sockets/docker.sock");
    let left = || {
        let entries = fs::read_dir(&scratch.path).expect("the directory of the sockets");
        entries.count()
    };
    // In the plan.
    let output = spec
        .clone()
        .env("PATH", "/nowhere")
        .flags(["--entrypoint", "/usr/local/bin/dind"])
        .run(&[])
        .exited(127);
    only_line(&output);
    assert_eq!(left(), 0);
    // In its steps.
    let _holder = dind().flags(volume.on("/var/lib/docker")).ready(&[]);
    let output = spec.flags(volume.on("/var/lib/docker")).run(&[]).exited(1);
    assert!(
        output.stderr.contains("/var/lib/docker"),
        "{}",
        output.stderr
    );
    assert_eq!(left(), 0);
}

/// A socket that cannot be bound is not the first of two faults.
#[test]
fn what_the_plan_finds_comes_before_a_socket_that_cannot_be_bound() {
    let spec = dind().env("DOCKER_HOST", "unix:///proc/nowhere/docker.sock");
    let output = spec
        .clone()
        .env("PATH", "/nowhere")
        .flags(["--entrypoint", "/usr/local/bin/dind"])
        .run(&[])
        .exited(127);
    assert!(only_line(&output).contains("no dockerd"));
    let output = spec.run(&[]).exited(1);
    assert!(
        only_line(&output)
            .starts_with("dind: error: cannot listen on unix:///proc/nowhere/docker.sock"),
        "{}",
        output.stderr
    );
}
