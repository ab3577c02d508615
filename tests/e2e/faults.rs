//! Every system call that PID 1 and what it forks make for a start fails once in each of them,
//! each time that it is made, with one of four errors; by `tests/lab test --all` with each of
//! them. The daemon works all the same, or there is one line that says what is wrong and what to
//! do, with status 1 or 2; and that soon.
//!
//! strace injects the error in the place of the call. The starts are in pid and mount
//! namespaces of their own, one after the other, in one container for each system call: a
//! container for each start would take four times as long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use crate::docker::{Container, all, dind, lab};

/// What is injected: what a security module says, what a container without some file says,
/// what a full disk says, and what a signal does.
const ERRORS: [&str; 4] = ["EPERM", "ENOENT", "ENOSPC", "EINTR"];

/// What they are called in messages.
const DESCRIPTIONS: [&str; 4] = [
    "Operation not permitted",
    "No such file or directory",
    "No space left on device",
    "Interrupted system call",
];

/// What is not called everywhere. For some layouts of cgroups: a hierarchy of v2 is mounted
/// beside those of v1, and entered for that; a controller of v1 has several names. And by some
/// versions of the C library: for fstat(3), and for memory that is given back.
const NOT_EVERYWHERE: [&str; 6] = [
    "fstat",
    "munmap",
    "newfstatat",
    "setns",
    "symlink",
    "unshare",
];

/// What no test makes fail, with the reason.
const NEVER_FAILS: [&str; 13] = [
    // The descriptor is closed whatever close(2) returns, and an injected error would keep it
    // open: a kernel that no program is written for.
    "close",
    // "These functions are always successful": geteuid(2), getpid(2), gettid(2), umask(2).
    "geteuid",
    "getpid",
    "gettid",
    "umask",
    // Has a test of its own: it fails always, by a seccomp profile, or never. In between the
    // standard library and rcgen end a program.
    "getrandom",
    // Has tests of its own, in `daemons` and `session`. Here it is the last call of a child that
    // strace sees, and in the trace before PID 1's question or after it, as the two run.
    "execve",
    // With WNOHANG it fails where there is no child, and only there: wait(2).
    "wait4",
    // They do not return, or not to their caller.
    "exit_group",
    "rt_sigreturn",
    // The C library's, in a forked child, which has no robust mutex.
    "set_robust_list",
    // Memory. The standard library ends a program that gets none.
    "brk",
    "mmap",
];

/// start NUMBER OPTION...: PID 1 under strace, which is its grandchild (-DD), and its children
/// until they execute a program. strace counts for each of them. The trace is in /trace.NUMBER.
/// Without a bridge and packet filters dockerd takes half the time.
const START: &str = r#"
start() {
    local number=$1 name
    shift
    timeout --signal=KILL 30 unshare --kill-child --pid --fork --mount --mount-proc bash -c '
        mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib/docker || exit 99
        export DOCKER_DAEMON_ARGS="--bridge=none --iptables=false --ip6tables=false"
        export DOCKER_TLS_CERTDIR=${CERTIFICATES-/run/certs}
        exec strace -DD -f -b execve -qq -o "$0" "$@" dind sh -c "dind health && echo works"
    ' "/trace.$number" "$@" </dev/null >"/out.$number" 2>"/err.$number"
    echo "== $number $? $(grep -c '(INJECTED)$' "/trace.$number")"
    sed 's/^/out: /' "/out.$number"
    sed 's/^/err: /' "/err.$number"
    # What is new in the tmpfs of cgroup v1, which all starts share.
    if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
        ls -A /sys/fs/cgroup | grep -vxF "$before" | while read -r name; do
            rm -f "/sys/fs/cgroup/$name" || rmdir "/sys/fs/cgroup/$name"
        done
    fi
}
before=$(ls -A /sys/fs/cgroup)
"#;

/// A start.
#[derive(Default)]
struct Start {
    status: i32,
    /// How many calls failed by our doing: at most one in each process.
    injected: usize,
    /// What it printed, each line with the stream's name before it.
    lines: Vec<String>,
}

impl Start {
    /// The starts that a script has written down.
    fn parse(text: &str) -> Vec<Self> {
        let mut starts: Vec<Self> = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["==", _, status, injected] = words[..] {
                starts.push(Self {
                    status: status.parse().expect("an exit status"),
                    injected: injected.parse().expect("a count"),
                    lines: Vec::new(),
                });
            } else {
                starts.last_mut().expect("a start").lines.push(line.into());
            }
        }
        starts
    }

    /// What is wrong with it.
    fn complaint(&self) -> Option<&'static str> {
        let with = |prefix: &str| {
            self.lines
                .iter()
                .filter(|line| line.starts_with(prefix))
                .count()
        };
        let works = with("out: works") == 1;
        let errors = with("err: dind: error: ");
        if self.injected == 0 {
            return Some("the call was not made");
        }
        match (self.status, errors) {
            _ if self.is_vague() => Some("a message that does not say of what it speaks"),
            (0, 0) if works => None,
            (1 | 2, 0) => Some("silent"),
            (1 | 2, errors) if errors > self.injected => Some("more errors than failures"),
            (1 | 2, _) if self.has_hints() => None,
            (1 | 2, _) => Some("no hint"),
            (137, _) => Some("hangs"),
            _ => Some("neither works nor fails in order"),
        }
    }

    /// Whether there is a message that begins with the error's name.
    fn is_vague(&self) -> bool {
        self.lines.iter().any(|line| {
            ERRORS.iter().any(|error| {
                line.strip_prefix("err: dind: error: ")
                    .or(line.strip_prefix("err: dind: warning: "))
                    .is_some_and(|message| message.starts_with(error))
            })
        })
    }

    /// Whether every error ends with what the user can do, as all of dind's do, and not with its
    /// cause.
    fn has_hints(&self) -> bool {
        let mut errors = self
            .lines
            .iter()
            .filter(|line| line.starts_with("err: dind: error: "));
        errors.all(|error| {
            let end = error.rsplit_once("; ").map(|(_, end)| end);
            end.is_some_and(|end| {
                !end.starts_with("already done and not undone: ")
                    && !DESCRIPTIONS.iter().any(|cause| end.contains(cause))
            })
        })
    }
}

/// A system call of a start that goes well.
struct Call {
    name: String,
    /// Which it is, among the calls of this name that its process makes.
    number: usize,
    /// Whether it is the run-time's before `main`, or the one of fork(2): there the C library
    /// blocks every signal, does not look whether that was done, and sets the mask again that
    /// it has not got.
    is_anothers: bool,
}

/// Those of PID 1 up to the question whether the daemon answers, and of what it forks by then.
struct Calls(Vec<Call>);

impl Calls {
    /// They are the same in every container: one start serves all tests.
    fn get() -> &'static Self {
        static CALLS: OnceLock<Calls> = OnceLock::new();
        CALLS.get_or_init(|| Self::of(&container()))
    }

    #[track_caller]
    fn of(container: &Container) -> Self {
        let text = container.text(&["bash", "-c", &format!("{START} start 0")]);
        let starts = Start::parse(&text);
        assert!(
            starts[0].status == 0 && text.contains("out: works"),
            "{text}"
        );
        let trace = container.sh("cat /trace.0");
        // The first thing that PID 1 does is to set its signal mask.
        let (mut has_begun, mut has_asked) = (false, false);
        let mut calls = Vec::new();
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for line in trace.lines() {
            let (pid, call) = line.split_once(' ').expect("a pid");
            let Some((name, arguments)) = call.trim_start().split_once('(') else {
                continue;
            };
            if name.contains(' ') {
                // A signal, an end, or the rest of a call that was interrupted by another's.
                continue;
            }
            has_begun |= call.contains("rt_sigprocmask(SIG_BLOCK, ~[ILL");
            let count = counts.entry((pid.to_owned(), name.to_owned())).or_default();
            *count += 1;
            calls.push(Call {
                name: name.to_owned(),
                number: *count,
                is_anothers: !has_begun
                    || name == "rt_sigprocmask" && arguments.starts_with("SIG_BLOCK, ~[]"),
            });
            has_asked |= call.contains("GET /_ping");
            if has_asked {
                break;
            }
        }
        assert!(has_begun && has_asked, "in the trace:\n{trace}");
        Self(calls)
    }

    /// Those that are this program's own.
    fn own(&self) -> impl Iterator<Item = &Call> {
        self.0.iter().filter(|call| !call.is_anothers)
    }

    /// The numbers at which a call of this name fails.
    fn numbers(&self, syscall: &str) -> Vec<usize> {
        let own = self.own().filter(|call| call.name == syscall);
        let mut numbers: BTreeSet<usize> = own.map(|call| call.number).collect();
        // The run-time ends the program where one of its own fails. strace counts for each process
        // and would have these fail in PID 1.
        for call in self.0.iter().filter(|call| call.is_anothers) {
            if call.name == syscall {
                numbers.remove(&call.number);
            }
        }
        let numbers: Vec<usize> = numbers.into_iter().collect();
        // A loop calls sigaction(2) for each signal, three times: some stand for all.
        numbers
            .iter()
            .copied()
            .step_by(numbers.len() / MOST + 1)
            .collect()
    }
}

/// How many calls of one name fail at most.
const MOST: usize = 64;

/// Up to how many calls of one name fail with each of [`ERRORS`] even without `--all`.
const FEW: usize = 4;

/// The calls that fail, by their number, each with the error that it fails with. Where there are
/// many, each fails with one error only: all of them would take most of the time of all tests.
fn failures(numbers: &[usize]) -> Vec<(usize, &'static str)> {
    if all() || numbers.len() <= FEW {
        let with_each = |number: &usize| ERRORS.map(|error| (*number, error));
        return numbers.iter().flat_map(with_each).collect();
    }
    let errors = ERRORS.iter().copied().cycle();
    numbers.iter().copied().zip(errors).collect()
}

/// A container to start dind in, which has no daemons of its own. On cgroup v2 it has been
/// prepared: from their pid namespace the starts could not move its processes out of the way.
/// Which modules are loaded is hidden, so that the kernel is asked about nf_tables.
#[track_caller]
fn container() -> Container {
    let container = dind()
        .image(&lab("DIND_LAB_STRACE"))
        .flags(["--no-healthcheck", "--tmpfs=/var/lib/docker"])
        .shell(
            "mount -t tmpfs tmpfs /sys/module
             [ ! -e /sys/fs/cgroup/cgroup.controllers ] || exec dind hack-dind sleep infinity
             exec sleep infinity",
        )
        .start(&[]);
    container.wait_until("pgrep -x sleep >/dev/null");
    container
}

/// Makes each call of this name fail.
#[track_caller]
fn each_fails_once(syscall: &str) {
    let numbers = Calls::get().numbers(syscall);
    assert!(
        !numbers.is_empty() || NOT_EVERYWHERE.contains(&syscall),
        "a start makes no call of {syscall}"
    );
    let failures = failures(&numbers);
    let starts: Vec<String> = failures
        .iter()
        .map(|(number, error)| {
            format!("start {number} -e inject={syscall}:error={error}:when={number}")
        })
        .collect();
    let script = format!("{START}\n{}", starts.join("\n"));
    let starts = Start::parse(&container().text(&["bash", "-c", &script]));
    assert_eq!(starts.len(), failures.len());
    let mut complaints = Vec::new();
    for (start, (number, error)) in starts.iter().zip(failures) {
        if let Some(complaint) = start.complaint() {
            complaints.push(format!(
                "{error} from {syscall} number {number}: {complaint}, status {}\n{}",
                start.status,
                start.lines.join("\n")
            ));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

/// Where getrandom(2) is forbidden, certificates are made, and those that are there are read,
/// with what /dev/urandom has. Where it ends only later, that is said.
#[test]
fn getrandom() {
    let container = container();
    let run = |number: u32, certificates: &str, options: &str| {
        let script = format!("{START} CERTIFICATES={certificates} start {number} {options}");
        let mut starts = Start::parse(&container.text(&["bash", "-c", &script]));
        let start = starts.pop().expect("a start");
        (start.status, start.complaint(), start.lines.join("\n"))
    };
    let (status, _, said) = run(1, "/certs/kept", "");
    assert_eq!(status, 0, "{said}");
    for (number, certificates) in [(2, "/run/certs"), (3, "/certs/kept")] {
        for error in ["EPERM", "ENOSYS"] {
            // The child that makes them first sees how it is.
            for (first, expected) in [(1, 0), (2, 1)] {
                let options = format!("-e inject=getrandom:error={error}:when={first}+");
                let (status, complaint, said) = run(number, certificates, &options);
                assert_eq!((status, complaint), (expected, None), "{options}: {said}");
                assert_eq!(said.contains("allow getrandom(2)"), expected == 1, "{said}");
            }
        }
    }
}

macro_rules! system_calls {
    ($($name:ident)*) => {
        /// The system calls that have a test.
        const TESTED: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                each_fails_once(stringify!($name));
            }
        )*
    };
}

system_calls! {
    bind chdir chmod chown clone close_range connect dup2 fchdir fchmod fcntl flock fstat getdents64
    getsockname ioctl listen lseek mkdir mount munmap newfstatat openat pipe2 ppoll prctl pread64
    prlimit64
    read readlink recvfrom recvmsg rename renameat rmdir rt_sigaction rt_sigprocmask sendto
    setns setsid setsockopt socket socketpair statfs statx symlink uname unlink
    unlinkat unshare write
}

/// No system call has been forgotten.
#[test]
fn every_system_call_of_a_start_has_a_test() {
    let mut missing: Vec<&str> = Calls::get()
        .own()
        .map(|call| call.name.as_str())
        .filter(|name| !TESTED.contains(name) && !NEVER_FAILS.contains(name))
        .collect();
    missing.sort();
    missing.dedup();
    assert!(missing.is_empty(), "no test: {missing:?}");
}
