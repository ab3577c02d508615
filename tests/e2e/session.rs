//! A command beside the daemon: what it gets, what it prints, how it ends.

use crate::docker::{Scratch, all, dind, lab};

/// The command's standard output holds nothing else; what the daemons and dind say
/// goes to standard error.
#[test]
fn standard_output_is_the_commands_alone() {
    let output = dind().run(&["echo", "hi"]).exited(0);
    assert_eq!(output.stdout, "hi\n");
    output.says(&["dind: docker is ready after", "unix:///var/run/docker.sock"]);
}

/// Docker works for the command from its first instruction on.
#[test]
fn docker_works_in_the_command() {
    let output = dind()
        .flags([
            "-v".to_owned(),
            format!("{}:/busybox.tar:ro", lab("DIND_LAB_BUSYBOX")),
        ])
        .run(&[
            "sh",
            "-c",
            "docker load -qi /busybox.tar >&2 && docker run --rm dind-lab/busybox echo inner",
        ]);
    assert_eq!(output.text(), "inner");
}

/// The command has the container's standard input, to its end.
#[test]
fn standard_input_is_the_commands() {
    let scratch = Scratch::new();
    let text = "first\nsecond\n".repeat(10_000);
    let file = scratch.file("input", &text);
    let output = dind().run_with_stdin(&file, &["cat"]).exited(0);
    assert!(
        output.stdout == text,
        "{} bytes came back",
        output.stdout.len()
    );
}

/// Without a command and without a terminal, but with something on standard input,
/// the login shell reads that.
#[test]
fn a_script_on_standard_input_is_for_the_login_shell() {
    let scratch = Scratch::new();
    let file = scratch.file(
        "script",
        "shopt -q login_shell && echo login\ndocker version >/dev/null && echo docker\nexit 7\n",
    );
    let output = dind().run_with_stdin(&file, &[]).exited(7);
    assert_eq!(output.stdout, "login\ndocker\n");
}

/// Starts dind once for each of `commands`, two at a time, with real daemons, as
/// PID 1 of pid and mount namespaces inside one container: that is what a container
/// start would do, without the time that the outer engine takes. The exit statuses.
fn statuses_of(commands: &[String]) -> Vec<i32> {
    let script = r#"
        # Without job control a shell has its background jobs ignore SIGINT.
        set -m
        half() {
            export DOCKER_DAEMON_ARGS="--bridge=none --iptables=false --data-root=/var/lib/docker/$1"
            mkdir -p "/var/lib/docker/$1"
            local number=$1
            shift $((1 + $1))
            while [ $# -gt 0 ]; do
                unshare --pid --fork --mount --mount-proc sh -c '
                    mount -t tmpfs tmpfs /run && exec dind sh -c "$1"
                ' sh "$1" 2>&1 >/dev/null | cat >>"/tmp/log.$number"
                echo "$number ${PIPESTATUS[0]}"
                number=$((number + 2))
                shift $(($# > 1 ? 2 : 1))
            done
        }
        half 0 "$@" & half 1 "$@" & wait
        cat /tmp/log.* >&2
    "#;
    let words: Vec<&str> = commands.iter().map(String::as_str).collect();
    let output = dind().shell(script).run(&words).exited(0);
    let mut statuses: Vec<(usize, i32)> = output
        .stdout
        .lines()
        .map(|line| {
            let (number, status) = line.split_once(' ').expect("two numbers a line");
            (number.parse().unwrap(), status.parse().unwrap())
        })
        .collect();
    statuses.sort_unstable();
    let ready = output.stderr.matches("dind: docker is ready after").count();
    assert_eq!(
        ready,
        commands.len(),
        "daemons ran every time\n{}",
        output.stderr
    );
    statuses.into_iter().map(|(_, status)| status).collect()
}

/// Every exit status of the command is the container's. By `tests/lab test --all` that is each;
/// else those that mean something to a shell or to docker, and those beside them.
#[test]
fn every_exit_status_is_passed_on() {
    let wanted: Vec<i32> = match all() {
        true => (0..=255).collect(),
        false => vec![
            0, 1, 2, 3, 42, 124, 125, 126, 127, 128, 129, 130, 137, 143, 254, 255,
        ],
    };
    let commands: Vec<String> = wanted
        .iter()
        .map(|status| format!("exit {status}"))
        .collect();
    assert_eq!(statuses_of(&commands), wanted);
}

/// A command that a signal ends gives 128 and its number, the real-time signals not
/// excepted.
#[test]
fn the_end_by_a_signal_is_128_and_its_number() {
    let signals = [
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 24, 31, 34, 50, 64,
    ];
    let commands: Vec<String> = signals
        .iter()
        .map(|signal| format!("ulimit -c 0; kill -{signal} $$"))
        .collect();
    let wanted: Vec<i32> = signals.iter().map(|signal| 128 + signal).collect();
    assert_eq!(statuses_of(&commands), wanted);
}

/// A command that is not there is 127, as in every shell, and said.
#[test]
fn a_missing_command_is_127() {
    for command in ["no-such-command", "/no/such/command"] {
        let output = dind().run(&[command, "argument"]).exited(127);
        assert_eq!(output.stdout, "");
        output.says(&["dind: error:", command, "check its spelling"]);
    }
}

/// A command that cannot be executed is 126, as in every shell, and said.
#[test]
fn a_command_that_cannot_run_is_126() {
    for (command, why) in [
        ("/etc/os-release", "check its mode"),
        ("/etc", "Permission denied"),
    ] {
        let output = dind().run(&[command]).exited(126);
        output.says(&["dind: error:", command, why]);
    }
    let scratch = Scratch::new();
    let script = scratch.file(
        "script",
        "echo this has no first line with an interpreter\n",
    );
    let made = std::process::Command::new("chmod")
        .arg("755")
        .arg(&script)
        .status();
    assert!(made.is_ok_and(|status| status.success()));
    dind()
        .flags(scratch.mounted_on("/scripts"))
        .run(&["/scripts/script"])
        .exited(126)
        .says(&["dind: error:", "/scripts/script", "#!"]);
}

/// `wrapdocker` as the image's command, as its program's name and as
/// `DIND_CONTRACT` is one and the same: the daemon behind, the command in front.
#[test]
fn wrapdocker_is_a_session_by_each_of_its_names() {
    let command = ["sh", "-c", "docker version >/dev/null && echo up; exit 9"];
    let with_name: Vec<&str> = ["wrapdocker"].into_iter().chain(command).collect();
    for (spec, words) in [
        (dind(), with_name.as_slice()),
        (dind().flags(["--entrypoint", "wrapdocker"]), &command),
        (dind().env("DIND_CONTRACT", "wrapdocker"), &command),
    ] {
        let output = spec.run(words).exited(9);
        assert_eq!(output.stdout, "up\n");
    }
}

/// What is meant for clients is kept from the daemons, which would fail on it, and
/// given to the command.
#[test]
fn the_clients_variables_are_for_the_command() {
    let script = r"
        for process in self $(pgrep -x dockerd) $(pgrep -x containerd); do
            echo $(cat /proc/$process/environ | tr '\0' '\n' |
                grep -E '^(DOCKER_(TLS|TLS_VERIFY|CERT_PATH|CONFIG)|container|KEPT)=' | sort)
        done
    ";
    let output = dind()
        .env("DOCKER_TLS", "1")
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", "/certs/client")
        .env("DOCKER_CONFIG", "/config")
        .env("KEPT", "yes")
        .run(&["sh", "-c", script]);
    assert_eq!(
        output.text(),
        "DOCKER_CERT_PATH=/certs/client DOCKER_CONFIG=/config KEPT=yes\n\
         KEPT=yes container=docker\n\
         KEPT=yes container=docker"
    );
}

/// With a command, a stop of the container is the command's: it gets the signal,
/// and what it then exits with is what the container does.
#[test]
fn a_stop_reaches_the_command() {
    let container = dind().start(&[
        "bash",
        "-c",
        "trap 'echo told; exit 5' TERM; echo waiting; while :; do read -rt 1 <> <(:) || :; done",
    ]);
    container.wait_log("waiting", 1);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "5");
    container.logged(&["told"]);
    container.logged(&["Daemon shutdown complete"]);
}

/// A command that does not care for signals dies of the first, since it is not
/// PID 1 as it would be without dind.
#[test]
fn a_stop_ends_a_command_without_handlers() {
    let container = dind().start(&["sh", "-c", "echo waiting; exec sleep infinity"]);
    container.wait_log("waiting", 1);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "143");
}

/// The end of the command ends the containers inside, and the daemons in order.
#[test]
fn the_end_of_the_command_stops_the_rest() {
    let output = dind()
        .flags([
            "-v".to_owned(),
            format!("{}:/busybox.tar:ro", lab("DIND_LAB_BUSYBOX")),
        ])
        .run(&[
            "sh",
            "-c",
            "docker load -qi /busybox.tar >&2 &&
             docker run -d --name one dind-lab/busybox sh -c 'trap \"exit 0\" TERM; sleep infinity & wait' >&2 &&
             exit 3",
        ])
        .exited(3);
    output.says(&["Daemon shutdown complete"]);
}
