//! A shell on a real terminal: keys, job control, size, the way out.

use crate::daemons::{held_dockerd, wait_held};
use crate::docker::dind;
use crate::pty::{INTERRUPT, Pty, SIZE, SUSPEND};

/// A terminal and no command is a login shell beside the daemon, in which docker
/// works, and whose exit status is the container's. The daemons' log stays away from
/// the terminal, which it would garble.
#[test]
fn a_terminal_gets_a_login_shell() {
    let mut pty = Pty::run(&dind(), &[]);
    assert_eq!(
        pty.ask("shopt -q login_shell && docker info --format {{.Driver}} >/dev/null && echo fine"),
        ("fine".into(), 0)
    );
    let (_, status) = pty.ask("grep -q 'API listen on' /var/log/docker.log");
    assert_eq!(status, 0, "the daemons log to the file");
    assert!(
        pty.shown().contains("its log is /var/log/docker.log"),
        "and that is said"
    );
    pty.type_line("exit 7");
    assert_eq!(pty.wait(), 7);
    assert!(!pty.shown().contains("level=info"), "{}", pty.shown());
}

/// `LOG=stdio` overrides that.
#[test]
fn log_stdio_shows_the_daemons_log_on_the_terminal() {
    let mut pty = Pty::run(&dind().env("LOG", "stdio"), &[]);
    pty.expect("API listen on");
    pty.type_line("exit");
    assert_eq!(pty.wait(), 0);
}

/// A command on the terminal has it as the shell would.
#[test]
fn a_command_has_the_terminal() {
    let mut pty = Pty::run(
        &dind(),
        &["bash", "-c", "tty && read -r line && exit $line"],
    );
    pty.expect("/dev/");
    pty.type_line("42");
    assert_eq!(pty.wait(), 42);
}

/// A command is a process group of its own, and the terminal's foreground: a key that
/// signals reaches it once, and dind not at all.
#[test]
fn a_command_is_the_foreground_of_its_terminal() {
    let script = "echo $(ps -o pgid= -o tpgid= -p $$) is $$ $$ here";
    let mut pty = Pty::run(&dind(), &["sh", "-c", script]);
    pty.expect("ready after");
    pty.expect("\n");
    let words = pty.expect(" here");
    let (groups, own) = words.split_once(" is ").expect("four numbers");
    assert_eq!(groups.trim(), own);
    assert_eq!(pty.wait(), 0);
}

/// Ctrl-C ends what is in the foreground, and nothing else: the shell and both
/// daemons live on, as often as it is pressed.
#[test]
fn ctrl_c_is_for_the_foreground_alone() {
    let mut pty = Pty::run(&dind(), &[]);
    let (before, _) = pty.ask("pgrep -x 'dockerd|containerd' | xargs");
    for _ in 0..3 {
        pty.type_line("sleep 1000");
        pty.wait_foreground("sleep");
        pty.press(INTERRUPT);
        assert_eq!(pty.last_status(), 130, "128 + SIGINT");
    }
    let (after, _) = pty.ask("pgrep -x 'dockerd|containerd' | xargs");
    assert_eq!(before.split(' ').count(), 2, "{before}");
    assert_eq!(after, before);
    assert_eq!(pty.ask("docker version >/dev/null").1, 0);
    pty.type_line("exit 0");
    assert_eq!(pty.wait(), 0);
}

/// Keys that come before there is a shell do no harm.
#[test]
fn keys_before_the_shell_do_no_harm() {
    let mut pty = Pty::run(&dind(), &[]);
    pty.type_line("echo typed-''early");
    pty.expect("typed-early");
    assert_eq!(pty.ask("docker version >/dev/null").1, 0);
    pty.type_line("exit 0");
    assert_eq!(pty.wait(), 0);
}

/// Jobs go to the background and come back: the shell owns the terminal.
#[test]
fn the_shell_has_job_control() {
    let mut pty = Pty::run(&dind(), &[]);
    pty.type_line("sleep 1000 &");
    let (jobs, _) = pty.ask("jobs");
    assert!(
        jobs.contains("Running") && jobs.contains("sleep 1000"),
        "{jobs}"
    );

    pty.type_line("fg");
    pty.wait_foreground("sleep");
    pty.press(SUSPEND);
    pty.expect("Stopped");
    let (jobs, _) = pty.ask("jobs");
    assert!(jobs.contains("Stopped"), "{jobs}");

    pty.ask("bg");
    let (jobs, _) = pty.ask("jobs");
    assert!(jobs.contains("Running"), "{jobs}");

    pty.type_line("fg");
    pty.wait_foreground("sleep");
    pty.press(INTERRUPT);
    assert_eq!(pty.last_status(), 130);
    let (jobs, _) = pty.ask("jobs");
    assert_eq!(jobs, "");
    pty.type_line("exit 0");
    assert_eq!(pty.wait(), 0);
}

/// The size of the window reaches the shell, at the start and at every change.
#[test]
fn the_size_of_the_window_reaches_the_shell() {
    let mut pty = Pty::run(&dind(), &[]);
    assert_eq!(pty.ask("stty size").0, format!("{} {}", SIZE.0, SIZE.1));
    pty.type_line(
        "trap 'echo now $(stty size).' WINCH; echo wait''ing; until [ -e /seen ]; do sleep 0.1; done",
    );
    pty.expect("waiting");
    pty.resize(50, 150);
    pty.expect("now 50 150.");
    pty.container.text(&["touch", "/seen"]);
    pty.type_line("exit 0");
    assert_eq!(pty.wait(), 0);
}

/// An interactive shell ignores SIGTERM; `docker stop` ends it all the same, and the
/// daemons in order, before the grace is over.
#[test]
fn a_stop_ends_an_interactive_shell() {
    let mut pty = Pty::run(&dind(), &[]);
    assert_eq!(pty.ask("true").1, 0);
    pty.container.docker(&["stop"]).exited(0);
    // 128 + SIGHUP: a kill of the container would be 137.
    assert_eq!(pty.wait(), 129);
}

/// `exit` in the shell ends the container even while a background job lives.
#[test]
fn a_background_job_does_not_hold_up_the_exit() {
    let mut pty = Pty::run(&dind(), &[]);
    pty.type_line("nohup sleep 1000 >/dev/null 2>&1 & disown");
    pty.settle();
    pty.type_line("exit 5");
    assert_eq!(pty.wait(), 5);
}

/// Ctrl-C before there is a shell means that it is not wanted any more.
#[test]
fn ctrl_c_before_the_shell_gives_up() {
    let mut pty = Pty::run(&held_dockerd(dind()), &[]);
    wait_held(&pty.container);
    pty.press(INTERRUPT);
    assert_eq!(pty.wait(), 130);
}
