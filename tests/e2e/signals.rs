//! Signals from the first moment on, and the dispositions that this program finds.

use crate::docker::{Container, Spec, dind, lab};

/// Two hundred starts, each PID 1 of namespaces of its own with real daemons, which get SIGTERM 0
/// to 20 ms after their exec. For each a line says what became of it: `ended`, `lost`, or `early`
/// for one that neither blocked nor caught the signal yet when it was due. The kernel drops such a
/// signal, whoever PID 1 is, so it is not sent.
const TERMINATIONS: &str = r#"
use strict; use POSIX ":sys_wait_h"; use Time::HiRes qw(time sleep);
sub text { open(my $file, "<", $_[0]) or return ""; local $/; <$file> }
sub has { text($_[0]) =~ /^$_[1]:\s*([0-9a-f]+)/m and hex(substr($1, -8)) >> 14 & 1 }
for my $try (0 .. 199) {
    pipe(my $ready_in, my $ready_out); pipe(my $go_in, my $go_out);
    $^F = 255;
    my $unshare = fork;
    if (!$unshare) {
        open(STDIN, "<", "/dev/null"); open(STDOUT, ">", "/out"); open(STDERR, ">", "/out");
        my ($ready, $go) = (fileno $ready_out, fileno $go_in);
        fcntl($ready_out, 2, 0); fcntl($go_in, 2, 0); close $go_out; close $ready_in;
        exec "unshare", qw(--kill-child --pid --fork --mount --mount-proc sh -c), "
            mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib/docker || exit 99
            echo >&$ready; read -r _ <&$go
            exec $ready>&- $go<&-
            exec dind dockerd --bridge=none --iptables=false --ip6tables=false";
    }
    close $ready_out; close $go_in;
    defined(readline $ready_in) or die "no namespaces";
    my ($pid) = text("/proc/$unshare/task/$unshare/children") =~ /(\d+)/ or die "no child";
    my $shell = readlink "/proc/$pid/exe";
    print $go_out "\n"; close $go_out;
    1 while readlink("/proc/$pid/exe") eq $shell;
    my $until = time + $try / 10_000;
    1 while time < $until;
    my $safe = has("/proc/$pid/status", "SigBlk") || has("/proc/$pid/status", "SigCgt");
    kill($safe ? "TERM" : "KILL", $pid);
    my $by = time + 60;
    my $ended;
    sleep 0.005 until $ended = waitpid($unshare, WNOHANG) or time > $by;
    if (!$ended) { kill KILL => $pid; waitpid $unshare, 0 }
    print !$safe ? "early\n" : $ended ? "ended\n" : "lost at @{[$try / 10]} ms\n";
    last if $safe && !$ended;
}
"#;

/// A container to start dind in, which has no daemons of its own.
#[track_caller]
fn container() -> Container {
    let container = dind()
        .image(&lab("DIND_LAB_STRACE"))
        .flags(["--no-healthcheck", "--tmpfs=/var/lib/docker"])
        .shell(
            "[ ! -e /sys/fs/cgroup/cgroup.controllers ] || exec dind hack-dind sleep infinity
             exec sleep infinity",
        )
        .start(&[]);
    container.wait_until("pgrep -x sleep >/dev/null");
    container
}

/// `docker stop` right after `docker start` is a stop.
#[test]
fn sigterm_is_not_lost_however_early_it_comes() {
    let results = container().text(&["perl", "-e", TERMINATIONS]);
    let count = |word: &str| results.lines().filter(|line| *line == word).count();
    let (ended, early) = (count("ended"), count("early"));
    assert_eq!(ended + early, 200, "{results}");
    // The next test shows that nothing comes before the mask. Here most must have met one.
    assert!(early < 100, "{early} of 200");
}

/// The mask is set before this program opens anything or looks at anything.
#[test]
fn nothing_comes_before_the_signal_mask() {
    let trace = container().sh("strace -o /trace dind --version >/dev/null; cat /trace");
    let (before, _) = trace
        .split_once("rt_sigprocmask(SIG_BLOCK, ~[")
        .expect("the mask is set");
    // What the C library and Rust's runtime do before `main`.
    let mine: Vec<&str> = before
        .lines()
        .filter(|line| line.starts_with("open") || line.starts_with("stat"))
        .filter(|line| !line.contains("/proc/self/maps"))
        .collect();
    assert!(mine.is_empty(), "{mine:?}");
    let actions = before.matches("rt_sigaction(").count();
    assert!(actions < 20, "{actions} dispositions are read before");
}

/// A container whose PID 1 has SIGCHLD ignored when it executes dind. No shell does that: each
/// waits for children of its own.
fn without_sigchld() -> Spec {
    dind().prelude(r#"exec perl -e '$SIG{CHLD} = "IGNORE"; exec {"dind"} "dind", @ARGV' -- "$@""#)
}

/// The end of a daemon and of the command is learnt where whoever executed dind ignores SIGCHLD.
#[test]
fn children_are_waited_for_where_sigchld_was_ignored() {
    let server = without_sigchld().ready(&[]);
    server.docker(&["stop"]).exited(0);
    assert_eq!(server.inspect("{{.State.ExitCode}}"), "0");
    server.logged(&["Daemon shutdown complete"]);
    server.not_logged(&["killed"]);

    let dies = without_sigchld().ready(&[]);
    dies.sh("pkill -KILL -x dockerd");
    assert_eq!(dies.wait(), 137);
    dies.logged(&["dockerd was ended by SIGKILL"]);

    without_sigchld().run(&["sh", "-c", "exit 7"]).exited(7);
}

/// The command has what it would have without dind: SIGCHLD ignored, and no signal blocked.
#[test]
fn the_command_gets_the_dispositions_that_dind_was_executed_with() {
    let beside_daemons = &["cat", "/proc/self/status"][..];
    let in_the_place_of_dind = &["hack-dind", "cat", "/proc/self/status"];
    for (spec, command, ignored) in [
        (without_sigchld(), beside_daemons, 1),
        (without_sigchld(), in_the_place_of_dind, 1),
        (dind(), beside_daemons, 0),
        (dind(), in_the_place_of_dind, 0),
    ] {
        let status = spec.run(command).text();
        let number = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            u64::from_str_radix(number.expect(name), 16).expect(name)
        };
        assert_eq!(number("SigIgn:") >> 16 & 1, ignored, "{status}");
        assert_eq!(number("SigBlk:"), 0, "{status}");
    }
}

/// What only prints has the mask from before: a signal ends it.
#[test]
fn sigterm_ends_what_only_prints() {
    let status = container().sh("dind health --wait 300 2>/dev/null & sleep 0.2
         while ! grep -q 'SigBlk:.0000000000000000' /proc/$!/status; do sleep 0.1; done
         kill -TERM $!; wait $!; echo $?");
    assert_eq!(status.trim(), "143");
}

/// Where waitpid(2) says that there are no children, those that were there have ended: nothing
/// waits for them for ever.
#[test]
fn children_that_the_kernel_does_not_know_have_ended() {
    let output = container().exec(&[
        "timeout",
        "--signal=KILL",
        "120",
        "unshare",
        "--kill-child",
        "--pid",
        "--fork",
        "--mount",
        "--mount-proc",
        "sh",
        "-c",
        "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib/docker || exit 99
         export DOCKER_DAEMON_ARGS='--bridge=none --iptables=false --ip6tables=false'
         exec strace -DD -f -b execve -qq -o /trace -e inject=wait4:error=ECHILD \
             dind sh -c 'exit 7'",
    ]);
    assert_eq!(output.status, 1, "{output:?}");
    output.says(&["dind: error: ", "ended unseen"]);
}
