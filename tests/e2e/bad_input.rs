//! Bad input: one line with the name, the value and what is allowed, status 2, and
//! a container in which nothing has changed.

use crate::docker::{Container, Spec, dind, line_with, unprivileged};

/// A container of the image in which dind is yet to be started.
fn bystander() -> Container {
    let container = // A probe of its own would be a change.
    dind().flags(["--no-healthcheck"]).shell("exec sleep infinity").start(&[]);
    container.wait_until("[ -e /proc/self/mountinfo ]");
    container
}

/// What a start would change: mounts, files of the daemons, and processes.
fn state(container: &Container) -> String {
    container.sh("cat /proc/self/mountinfo
         find /run /var/run/ /var/lib/docker /var/log /sys/fs/cgroup -maxdepth 2
         pgrep 'dockerd|containerd|dind' || :")
}

/// Starts dind with these variables and arguments where everything else would do,
/// and finds the one line.
#[track_caller]
fn is_refused(container: &Container, variables: &[(&str, &str)], words: &[&str], parts: &[&str]) {
    let pairs: Vec<String> = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let flags: Vec<&str> = pairs.iter().flat_map(|pair| ["-e", pair]).collect();
    let words: Vec<&str> = ["dind"].iter().chain(words).copied().collect();
    let before = state(container);
    let output = container.exec_call(&flags, &words).finish().exited(2);
    assert_eq!(output.stdout, "");
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    let parts: Vec<&str> = ["dind: error:"].iter().chain(parts).copied().collect();
    output.says(&parts);
    assert_eq!(state(container), before, "nothing may have changed");
}

/// Every variable that can be wrong, in every way that is different, with a command
/// and without.
#[test]
fn bad_variables_are_named_with_what_is_allowed() {
    let container = bystander();
    let longest = "9".repeat(40);
    for (name, value, allowed) in [
        ("DOCKER_DAEMON_ARGS", "--label \"a=b", "balanced quotes"),
        ("DOCKER_DAEMON_ARGS", "--label 'a=b", "balanced quotes"),
        ("DOCKER_DAEMON_ARGS", "--label a\\", "balanced quotes"),
        ("DIND_ROOTLESS", "yes", "1, 0"),
        ("DIND_ROOTLESS_NETWORK", "vpnkit", "auto, veth"),
        ("DIND_STORE", "stores/main", "an absolute path"),
        ("DIND_STORAGE", "overlay2", "auto, loop"),
        ("DIND_STORAGE_SIZE", "20GB", "K, M, G or T"),
        ("DIND_STORAGE_SIZE", "1M", "256M"),
        ("DIND_RESTART", "always", "on-failure:N"),
        ("DIND_RESTART", "on-failure:x", "on-failure:N"),
        ("DIND_LOG", "warning", "error, warn, info"),
        ("DIND_LOG_FORMAT", "logfmt", "text, json"),
        ("DIND_STOP_DEAF", "0", "kill, wait"),
        ("DIND_STOP_TIMEOUT", "soon", "seconds"),
        ("DIND_STOP_TIMEOUT", "0", "seconds"),
        ("DIND_STOP_TIMEOUT", "-3", "seconds"),
        ("DIND_STOP_TIMEOUT", &longest, "seconds"),
        ("DIND_READY_TIMEOUT", "1,5", "seconds"),
        ("DIND_EPHEMERAL", "yes", "1, 0"),
        ("DIND_READY_TIMEOUT", "10s", "seconds"),
        ("DIND_CONTRACT", "dnd", "wrapdocker"),
        ("DIND_TMPFS", "maybe", "off"),
    ] {
        // As a quoted Rust string, so that a line stays a line.
        let shown = format!("{name}={value:?}");
        is_refused(&container, &[(name, value)], &[], &[&shown, allowed]);
        is_refused(&container, &[(name, value)], &["true"], &[&shown, allowed]);
    }
    for value in ["abc", "0", "70000", "-1", "4444/tcp", " 4444", &longest] {
        let shown = format!("PORT={value:?}");
        for words in [&["wrapdocker"][..], &["wrapdocker", "true"]] {
            is_refused(
                &container,
                &[("PORT", value)],
                words,
                &[&shown, "1 to 65535"],
            );
        }
    }
}

/// The variables that GitLab gives from a job to its services: what does not read them says
/// nothing of them, and a daemon ignores what cannot be meant for it.
#[test]
fn values_for_other_programs_stop_nobody() {
    let leaked = |spec: Spec| spec.env("LOG", "debug").env("PORT", "auto");
    for words in [
        &["docker-entrypoint.sh", "echo", "hi"][..],
        &["dockerd-entrypoint.sh", "echo", "hi"],
        &["echo", "hi"],
    ] {
        let output = leaked(unprivileged()).env("DIND_MTU", "big").run(words);
        assert_eq!(output.stderr, "", "{words:?}");
        assert_eq!(output.text(), "hi");
    }
    let output = leaked(dind()).run(&["hack-dind", "echo", "hi"]);
    assert_eq!(output.stderr, "");
    assert_eq!(output.text(), "hi");
    let container = leaked(dind()).ready(&[]);
    for value in ["LOG=\"debug\"", "PORT=\"auto\""] {
        container.logged(&["dind: warning: ", value, "counts as not set; allowed: "]);
    }
    container.logged(&["docker is ready", "tcp://0.0.0.0:2376 (TLS)"]);
    container.exec(&["dind", "health"]).exited(0);
    let doctor = container.exec_call(&["-e", "DIND_MTU=big"], &["dind", "doctor"]);
    let doctor = doctor.finish().exited(1).stdout;
    for parts in [
        ["error: DIND_MTU=\"big\" is not valid", "68 to 65535"],
        ["warning: PORT=\"auto\" is not valid", "counts as not set"],
        ["warning: LOG=\"debug\" is not valid", "counts as not set"],
    ] {
        assert!(line_with(&doctor, &parts).is_some(), "{parts:?}: {doctor}");
    }
    let output = leaked(dind().env("DOCKER_TLS_CERTDIR", ""))
        .run(&["wrapdocker", "true"])
        .exited(2);
    output.says(&["dind: error: PORT=\"auto\" is not valid"]);
}

/// A value with a line break in it does not make two lines of the message.
#[test]
fn a_line_break_in_a_value_stays_on_the_line() {
    is_refused(
        &bystander(),
        &[("DIND_MTU", "44\n44")],
        &[],
        &["DIND_MTU=", "44\\n44"],
    );
}

/// Nor does one in a file name, which no error quotes, or anything that drives a terminal.
#[test]
fn no_value_forges_a_line_or_drives_a_terminal() {
    let forged = "1\ndind: error: forged\r\u{1b}[2J\u{9b}31m";
    for (name, value) in [
        ("DIND_MTU", forged),
        ("DOCKER_HOST", &format!("unix:///proc/{forged}")),
        ("DOCKER_TLS_CERTDIR", &format!("/proc/{forged}")),
        ("DOCKER_DAEMON_ARGS", &format!("--config-file '/{forged}'")),
    ] {
        let output = dind().env(name, value).run(&[]);
        assert_ne!(output.status, 0, "{name}");
        let output = output.says(&["dind: error: ", r"1\ndind: error: forged\r\"]);
        for line in output.stderr.lines() {
            assert!(line.starts_with("dind: "), "{name}: {line:?}");
            assert!(!line.starts_with("dind: error: forged"), "{name}: {line:?}");
            assert!(!line.contains(char::is_control), "{name}: {line:?}");
        }
    }
    let output = dind().env("PORT", forged).run(&["true"]).exited(0);
    let output = output.says(&["dind: warning: PORT=", r"1\ndind: error: forged\r\"]);
    assert!(
        !output.stderr.contains("\ndind: error: forged"),
        "{output:?}"
    );
    let plan = dind().env("DOCKER_HOST", &format!("unix:///{forged}"));
    let plan = plan.run(&["plan", "--data-root", forged]).text();
    assert!(
        plan.lines().all(|line| !line.contains(char::is_control)),
        "{plan:?}"
    );
    assert!(
        !plan.lines().any(|line| line.starts_with("dind: error")),
        "{plan}"
    );
}

/// What dind prints itself, of a start, a refusal and a plan, has no password and no key in
/// it, wherever they were; dockerd, which needs them, has them.
#[test]
fn no_secret_is_shown() {
    let proxy = "http://me:hunter2@proxy.invalid:3128";
    let key = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";
    let flags = format!("--label proxy={proxy} --label token=hunter2");
    let secrets = dind()
        .env("DOCKER_DAEMON_ARGS", &flags)
        .env("HTTP_PROXY", proxy)
        .env("LOG", "file");
    let container = secrets.ready(&[]);
    container.not_logged(&["hunter2"]);
    let labels = container.text(&["docker", "info", "--format", "{{.Labels}}"]);
    assert!(
        labels.contains("token=hunter2") && labels.contains(proxy),
        "{labels}"
    );
    // dockerd takes no password in a mirror's address, and shows what it does not take.
    let mirror = "--registry-mirror=https://me:hunter2@mirror.invalid";
    let refused = secrets.run(&[mirror]).exited(1);
    let refused = refused.says(&["error: |", "https://xxxxx@mirror.invalid"]);
    let open = format!("{flags} '{proxy}");
    for output in [
        refused,
        secrets.run(&["plan", mirror]),
        secrets.run(&["plan", "sh", "-c", "curl https://me:hunter2@host"]),
        secrets.clone().env("DIND_STORAGE", key).run(&[]),
        secrets.clone().env("PORT", key).run(&["true"]),
        secrets.clone().env("DOCKER_TLS_SAN", key).run(&[]),
        secrets.clone().env("DOCKER_DAEMON_ARGS", &open).run(&[]),
        secrets
            .clone()
            .env("PORT", "1")
            .run(&["plan", "curl", proxy]),
    ] {
        let all = output.stdout + &output.stderr;
        assert!(!all.is_empty() && !all.contains("hunter2"), "{all}");
    }
}

/// A subcommand with words that it does not know is not taken for a command.
#[test]
fn subcommands_are_no_commands() {
    let container = bystander();
    is_refused(&container, &[], &["doctor", "now"], &["doctor: ", "now"]);
    is_refused(&container, &[], &["nest"], &["dind nest"]);
}

/// As the container's PID 1 it is the same, whichever contract is asked for.
#[test]
fn bad_input_is_the_containers_end() {
    for command in [
        &[][..],
        &["true"],
        &["wrapdocker", "true"],
        &["hack-dind", "true"],
        &["docker-entrypoint.sh", "true"],
    ] {
        let output = dind().env("DIND_LOG", "loud").run(command).exited(2);
        assert_eq!(output.stdout, "");
        assert_eq!(
            output.stderr.lines().collect::<Vec<_>>(),
            [
                "dind: error: DIND_LOG=\"loud\" is not valid; allowed: error, warn, info, debug, trace"
            ]
        );
    }
}

/// An empty variable is one that is not set, as it was in the scripts.
#[test]
fn an_empty_variable_is_none() {
    let mut spec = dind();
    for name in [
        "PORT",
        "LOG",
        "DOCKER_DAEMON_ARGS",
        "DIND_CONTRACT",
        "DIND_TMPFS",
        "DIND_STOP_TIMEOUT",
        "DIND_READY_TIMEOUT",
        "DOCKER_HOST",
        "DOCKER_TLS_CERTDIR",
    ] {
        spec = spec.env(name, "");
    }
    let output = spec.run(&["echo", "hi"]);
    assert_eq!(output.text(), "hi");
}

/// A daemon.json that dockerd would not read is refused with the place in it.
#[test]
fn broken_json_is_refused_with_its_place() {
    let output = dind()
        .prelude("mkdir -p /etc/docker; printf '{\\n\"debug\": maybe}' >/etc/docker/daemon.json")
        .run(&[])
        .exited(1);
    output.says(&[
        "dind: error:",
        "/etc/docker/daemon.json",
        "line 2, column 10",
    ]);
}
