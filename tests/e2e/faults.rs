//! Every system call that PID 1 makes for a start fails once, each time that it is made,
//! with each of four errors. The daemon works all the same, or there is one line that says
//! what is wrong and what to do, with status 1 or 2; and that soon.
//!
//! strace injects the error in the place of the call. The starts are in pid and mount
//! namespaces of their own, one after the other, in one container for each system call: a
//! container for each start would take four times as long.

use crate::docker::{Container, dind, lab};

/// What is injected: what a security module says, what a container without some file says,
/// what a full disk says, and what a signal does.
const ERRORS: [&str; 4] = ["EPERM", "ENOENT", "ENOSPC", "EINTR"];

/// What is not called everywhere. For some layouts of cgroups: a hierarchy of v2 is mounted
/// beside those of v1, and entered for that; a controller of v1 has several names. And by some
/// versions of the C library: for fstat(3).
const NOT_EVERYWHERE: [&str; 5] = ["fstat", "newfstatat", "setns", "symlink", "unshare"];

/// What no test makes fail, with the reason.
const NEVER_FAILS: [&str; 7] = [
    // The descriptor is closed whatever close(2) returns, and an injected error would keep it
    // open: a kernel that no program is written for.
    "close",
    // "These functions are always successful": getpid(2), gettid(2), umask(2).
    "getpid",
    "gettid",
    "umask",
    // Has a test of its own: it fails always, by a seccomp profile, or never. In between the
    // standard library and rcgen end a program.
    "getrandom",
    // Memory. The standard library ends a program that gets none.
    "brk",
    "mmap",
];

/// start NUMBER OPTION...: PID 1 under strace, which is its grandchild (-DD). The trace is in
/// /trace.NUMBER. Without a bridge and packet filters dockerd takes half the time.
const START: &str = r#"
start() {
    local number=$1 name
    shift
    timeout --signal=KILL 30 unshare --kill-child --pid --fork --mount --mount-proc bash -c '
        mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib/docker || exit 99
        export DOCKER_DAEMON_ARGS="--bridge=none --iptables=false --ip6tables=false"
        export DOCKER_TLS_CERTDIR=${CERTIFICATES-/run/certs}
        exec strace -DD -qq -o "$0" "$@" dind sh -c "dind health && echo works"
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
    number: usize,
    status: i32,
    /// Whether a call failed by our doing.
    injected: bool,
    /// What it printed, each line with the stream's name before it.
    lines: Vec<String>,
}

impl Start {
    /// The starts that a script has written down.
    fn parse(text: &str) -> Vec<Self> {
        let mut starts: Vec<Self> = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["==", number, status, injected] = words[..] {
                starts.push(Self {
                    number: number.parse().expect("a number"),
                    status: status.parse().expect("an exit status"),
                    injected: injected != "0",
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
        if !self.injected {
            return Some("the call was not made");
        }
        match (self.status, errors) {
            _ if self.is_vague() => Some("a message that does not say of what it speaks"),
            (0, 0) if works => None,
            (1 | 2, 1) if self.has_hint() => None,
            (1 | 2, 1) => Some("no hint"),
            (1 | 2, 0) => Some("silent"),
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

    /// Whether the error ends with what the user can do, as all of dind's do.
    fn has_hint(&self) -> bool {
        let error = self
            .lines
            .iter()
            .find(|line| line.starts_with("err: dind: error: "));
        error.is_some_and(|error| {
            let own = error.split("; done before and left so: ").next();
            own.is_some_and(|own| own.contains("; "))
        })
    }
}

/// The system calls of PID 1 in a start that goes well, as strace writes them: from those of
/// the run-time before `main` to the question whether the daemon answers.
struct Calls {
    lines: Vec<String>,
    /// Where those of `main` begin.
    main: usize,
}

impl Calls {
    #[track_caller]
    fn of(container: &Container) -> Self {
        let text = container.text(&["bash", "-c", &format!("{START} start 0")]);
        let starts = Start::parse(&text);
        assert!(
            starts[0].status == 0 && text.contains("out: works"),
            "{text}"
        );
        let trace = container.sh("cat /trace.0");
        let mut lines: Vec<String> = trace.lines().map(str::to_owned).collect();
        let find = |part: &str| {
            lines
                .iter()
                .position(|line| line.contains(part))
                .unwrap_or_else(|| panic!("no {part:?} in the trace:\n{trace}"))
        };
        // The first thing that dind wants to know is whether there is a terminal.
        let main = find("ioctl(0, TCGETS");
        let asked = find("GET /_ping");
        lines.truncate(asked + 1);
        Self { lines, main }
    }

    fn name(line: &str) -> &str {
        line.split('(').next().unwrap_or_default()
    }

    /// The names of those of `main`.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.lines[self.main..].iter().map(|line| Self::name(line))
    }

    /// Those of `main` that can fail, each by its number among all of that name. In fork(2)
    /// the C library blocks every signal, does not look whether that was done, and sets the
    /// mask again that it has not got.
    fn numbers(&self, syscall: &str) -> Vec<usize> {
        let named = self.lines.iter().enumerate();
        let named = named.filter(|(_, line)| Self::name(line) == syscall);
        named
            .zip(1..)
            .filter(|((place, line), _)| {
                *place >= self.main && !line.starts_with("rt_sigprocmask(SIG_BLOCK, ~[]")
            })
            .map(|(_, number)| number)
            .collect()
    }
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
    let container = container();
    let calls = Calls::of(&container);
    let numbers = calls.numbers(syscall);
    assert!(
        !numbers.is_empty() || NOT_EVERYWHERE.contains(&syscall),
        "a start makes no call of {syscall}"
    );
    let words: Vec<String> = numbers.iter().map(usize::to_string).collect();
    let mut complaints = Vec::new();
    for error in ERRORS {
        let script = format!(
            "{START}
             for number in {}; do
                 start $number -e inject={syscall}:error={error}:when=$number
             done",
            words.join(" ")
        );
        let starts = Start::parse(&container.text(&["bash", "-c", &script]));
        assert_eq!(starts.len(), numbers.len());
        for start in starts {
            if let Some(complaint) = start.complaint() {
                complaints.push(format!(
                    "{error} from {syscall} number {}: {complaint}, status {}\n{}",
                    start.number,
                    start.status,
                    start.lines.join("\n")
                ));
            }
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
            // The first is the C library's, before main, the second is to see how it is.
            for (first, expected) in [(2, 0), (3, 1)] {
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
    bind chdir chmod chown clone close_range connect fchdir fchmod fcntl flock fstat getdents64
    getsockname ioctl listen lseek mkdir mount munmap newfstatat openat pipe2 poll
    read readlink recvfrom recvmsg rename renameat rmdir rt_sigaction rt_sigprocmask sendto
    setitimer setns setsockopt signalfd4 socket statfs statx symlink uname unlink
    unlinkat unshare write
}

/// No system call has been forgotten.
#[test]
fn every_system_call_of_a_start_has_a_test() {
    let calls = Calls::of(&container());
    let mut missing: Vec<&str> = calls
        .names()
        .filter(|name| !TESTED.contains(name) && !NEVER_FAILS.contains(name))
        .collect();
    missing.sort();
    missing.dedup();
    assert!(missing.is_empty(), "no test: {missing:?}");
}
