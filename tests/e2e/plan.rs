//! `dind plan`: what would be done here, and nothing done; and dockerd's and dind's
//! own words.

use crate::docker::{Container, dind, unprivileged};

/// Everything that a start would change.
fn state(container: &Container) -> String {
    container.sh("cat /proc/self/mountinfo
         find / -xdev -path /proc -prune -o -printf '%p %m %u %g %s %l\\n' | sort
         find /sys/fs/cgroup /tmp /var/lib/docker -maxdepth 2
         ps -eo pid,comm | grep -vE ' (sh|find|sort|ps|grep|cat)$'")
}

/// It says what would be done, and does nothing of it: no mount, no file, no daemon.
#[test]
fn it_prints_and_changes_nothing() {
    let container = dind()
        .flags(["--no-healthcheck"])
        .shell("exec sleep infinity")
        .start(&[]);
    let before = state(&container);
    for (words, wanted) in [
        (&["dind", "plan"][..], "listen: tcp://0.0.0.0:2376 (TLS)"),
        (&["dind", "plan", "echo", "hi"], "then: run echo hi"),
        (&["dind", "plan", "--debug"], "--debug"),
        (
            &["dind", "plan", "dockerd", "-H", "tcp://:1"],
            "-H tcp://:1",
        ),
        (&["dind", "plan", "wrapdocker"], "contract: wrapdocker"),
        (&["dind", "plan", "hack-dind", "true"], "become: true"),
    ] {
        let printed = container.text(words);
        assert!(printed.contains(wanted), "{words:?}: {printed}");
        assert!(printed.contains("step: mount "), "{words:?}: {printed}");
    }
    assert_eq!(state(&container), before);
}

/// What stands in the way of a start is printed too, with status 0: somebody wants to
/// know.
#[test]
fn it_works_where_a_start_would_not() {
    let output = unprivileged().run(&["plan"]);
    let printed = output.text();
    assert!(
        printed.contains("would stop:") && printed.contains("--privileged"),
        "{printed}"
    );
}

/// It tells the truth: what it prints beforehand is what a start then does.
#[test]
fn a_start_does_what_was_planned() {
    let container = dind().prelude("dind plan >/planned").ready(&[]);
    let planned = container.text(&["cat", "/planned"]);
    let mounted: Vec<&str> = planned
        .lines()
        .filter(|line| line.starts_with("step: mount -t"))
        .map(|line| line.rsplit(' ').next().expect("a mount point"))
        .collect();
    assert!(mounted.contains(&"/tmp"), "{planned}");
    for target in mounted {
        container.text(&["mountpoint", target]);
    }
    let start = planned
        .lines()
        .find_map(|line| line.strip_prefix("start: /usr/sbin/dockerd "))
        .expect("a line for dockerd");
    // Printed as one would type it.
    let words = container.sh(&format!("echo {start}"));
    let running = container.text(&["pgrep", "-x", "-a", "dockerd"]);
    assert!(
        running.ends_with(&format!(" /usr/sbin/dockerd {words}")),
        "{running}\n{start}"
    );
}

/// Where everything has been done, nothing is left to be mounted.
#[test]
fn planning_again_mounts_nothing() {
    let container = dind().start(&[
        "sh",
        "-c",
        "echo session runs; while [ ! -e /end ]; do sleep 0.1; done",
    ]);
    container.wait_log("session runs", 1);
    // With a daemon there, a start would end before it came to the mounts.
    container.text(&["pkill", "-KILL", "-x", "dockerd|containerd"]);
    container.wait_until("! pgrep -x 'dockerd|containerd' >/dev/null");
    for words in [
        &["dind", "plan"][..],
        &["dind", "plan", "wrapdocker"],
        &["dind", "plan", "hack-dind", "true"],
    ] {
        let printed = container.text(words);
        assert!(!printed.contains("would stop"), "{printed}");
        assert!(!printed.contains("step: mount"), "{words:?}: {printed}");
        assert!(!printed.contains("step: ln"), "{words:?}: {printed}");
    }
}

/// `--help` and `--version` alone are dind's own, and name dockerd's; beside other
/// words they are dockerd's. None of them needs any privilege.
#[test]
fn help_and_version_need_no_daemon() {
    let help = unprivileged().run(&["--help"]).text();
    assert!(
        help.contains("DOCKER_DAEMON_ARGS") && help.contains("dind dockerd --help"),
        "{help}"
    );
    assert_eq!(unprivileged().run(&["help"]).text(), help);
    let version = unprivileged().run(&["--version"]).text();
    assert_eq!(version, format!("dind {}", env!("CARGO_PKG_VERSION")));
    let dockerd = unprivileged().run(&["dockerd", "--version"]).text();
    assert!(dockerd.starts_with("Docker version"), "{dockerd}");
    let dockerd = unprivileged().run(&["dockerd", "--help"]).text();
    assert!(dockerd.contains("--data-root"), "{dockerd}");
}

/// Each subcommand has a help of its own, on standard output, in a container without any
/// privilege. A mistake in its arguments is one line on standard error; one in its name is a
/// command that is not there.
#[test]
fn subcommands_have_help_and_name_mistakes() {
    for (words, part) in [
        (&["plan", "--help"][..], "Usage: dind plan"),
        (&["health", "--help"], "--wait <SECONDS>"),
        (&["help", "health"], "--wait <SECONDS>"),
        (&["doctor", "-h"], "--json"),
        (&["nest", "--help"], "dind nest DEPTH"),
    ] {
        let output = unprivileged().run(words).exited(0);
        assert!(output.stdout.contains(part), "{words:?}: {}", output.stdout);
        assert_eq!(output.stderr, "", "{words:?}");
    }
    let output = unprivileged().run(&["health", "--wiat", "5"]).exited(2);
    assert_eq!(output.stdout, "");
    assert_eq!(
        output.stderr.lines().collect::<Vec<_>>(),
        [
            "dind: error: health: unexpected argument '--wiat'; did you mean '--wait'? \
             allowed: --wait SECONDS, 0.1 to 86400"
        ]
    );
    let output = unprivileged().run(&["helth"]).exited(127);
    output.says(&["dind: error: helth: not found"]);
}
