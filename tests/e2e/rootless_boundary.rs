//! An engine in a user namespace is a boundary: what a privileged dind can do to its host, the root of
//! an inner container with every right that can be given to it cannot.

use nix::libc;

use crate::docker::{BUSYBOX, Container, Spec, privileges, rootless, rootless_with, unprivileged};
use crate::rootless::major;

/// Something that the root of an inner container tries.
struct Attempt {
    /// A shell script that succeeds where it can be done. [`PRELUDE`] comes before it.
    script: String,
    /// Whether it harms nothing and works on every kernel, so that a privileged engine shows that the
    /// script does what it means.
    harmless: bool,
}

/// `disk` is a disk of the host, where there is one; `top NAME…` are files of the container's own cgroups,
/// which its limits are in.
///
/// `call NUMBER ARGUMENT…` makes a system call, by the perl of the image under test, and succeeds where
/// the kernel does not refuse it for want of rights. Its arguments mean nothing, so it does nothing.
const PRELUDE: &str = "call() {
    chroot /outer perl -e '
        my ($number, @arguments) = map { /^-?[0-9]+$/ ? $_ + 0 : $_ } @ARGV;
        my $done = syscall $number, @arguments;
        exit($done == -1 && grep { $! == $_ } 1, 13, 38)' -- \"$@\"
}
disk() {
    for file in /outer/dev/*; do [ -b $file ] && echo $file && return; done
    echo /disk
}
top() {
    if [ -e /outer/sys/fs/cgroup/cgroup.controllers ]
    then ls /outer/sys/fs/cgroup/$1
    else ls /outer/sys/fs/cgroup/*/$1
    fi
}
";

fn call(number: i64, arguments: &str) -> String {
    format!("call {number} {arguments}")
}

fn attempts() -> Vec<Attempt> {
    let harmless = [
        // Devices.
        "mknod /disk b 8 0".to_owned(),
        "mknod /memory c 1 1".to_owned(),
        "head -c 1 $(disk)".to_owned(),
        "[ -c /outer/dev/kmsg ] && echo attempt >/outer/dev/kmsg".to_owned(),
        // File systems of the host, and those that show the kernel's own state.
        "mount -t devtmpfs d /mnt && umount /mnt".to_owned(),
        "mount -t securityfs s /mnt && umount /mnt".to_owned(),
        // Swap, the clock, the kernel's log.
        call(libc::SYS_swapon, "/none 0"),
        call(libc::SYS_settimeofday, "0 0"),
        call(libc::SYS_syslog, "8 0 0"),
        // Programs in the kernel: BPF_PROG_GET_FD_BY_ID, of none.
        "chroot /outer perl -e '$a = pack(q(x128)); exit(syscall(NUMBER, 13, $a, 12) == -1 && $! == 1)'"
            .replace("NUMBER", &libc::SYS_bpf.to_string()),
        // Every process of one processor: PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK.
        "chroot /outer perl -e '$a = pack(q(LLx112), 1, 112); exit(syscall(NUMBER, $a, -1, 0, -1, 0) == -1)'"
            .replace("NUMBER", &libc::SYS_perf_event_open.to_string()),
        // What belongs to the outer container's root, and is not readable for all.
        "cat /outer/etc/shadow".to_owned(),
        ": </proc/kmsg".to_owned(),
        "head -c 8 /proc/kpagecount".to_owned(),
    ];
    // Not every kernel has modules, kexec and kcore.
    let modules = [
        call(libc::SYS_init_module, "0 0 0"),
        call(libc::SYS_finit_module, "-1 0 0"),
        call(libc::SYS_delete_module, "none 2048"),
        // An unknown flag.
        call(libc::SYS_kexec_load, "0 0 0 8"),
        "head -c 1 /proc/kcore".to_owned(),
    ];
    let harmful = [
        "mount -t ext4 -o ro $(disk) /mnt",
        "mount -t btrfs -o ro $(disk) /mnt",
        // Settings, and files of the outer container.
        "echo x >/proc/sys/kernel/core_pattern",
        "echo 1 >/proc/sys/vm/overcommit_memory",
        "echo b >/proc/sysrq-trigger",
        "echo -1000 >/proc/self/oom_score_adj",
        "echo x >>/outer/etc/passwd",
        "chown 0 /outer/etc/passwd",
        "chmod u+s /outer/bin/sh",
        "mount -o remount,rw /outer/sys",
        "echo 1 >/outer/sys/class/net/lo/tx_queue_len",
        "echo 0 >/outer/sys/kernel/mm/transparent_hugepage/khugepaged/defrag",
        // This container's own limits, and what runs outside when a cgroup is empty.
        "for file in $(top memory.max; top memory.limit_in_bytes; top pids.max); do echo max >$file && exit 0; done; exit 1",
        "for file in $(top devices.allow); do echo a >$file && exit 0; done; exit 1",
        "for file in $(top release_agent); do echo /x >$file && exit 0; done; exit 1",
        "for file in $(top cgroup.freeze); do echo 0 >$file && exit 0; done; exit 1",
        // A hierarchy of cgroup v1, whose release agent is the host's root: CVE-2022-0492.
        "chroot /outer unshare --user --map-root-user --mount --cgroup sh -c \
            'mount -t cgroup -o rdma c /mnt && echo /x >/mnt/release_agent'",
    ];
    let harmless = harmless.into_iter().map(|script| Attempt {
        script,
        harmless: true,
    });
    let harmful = harmful.map(str::to_owned).into_iter().chain(modules);
    let harmful = harmful.map(|script| Attempt {
        script,
        harmless: false,
    });
    harmless.chain(harmful).collect()
}

/// The words for an inner container with all that can be given.
const FREE: [&str; 4] = [
    "--cap-add=ALL",
    "--security-opt=seccomp=unconfined",
    "--security-opt=systempaths=unconfined",
    "--volume=/:/outer",
];

/// The words for an inner container of a privileged engine, with its file system.
fn privileged() -> Vec<String> {
    let words = shlex::split(privileges()).expect("words of a shell");
    words.into_iter().chain([FREE[3].to_owned()]).collect()
}

/// The scripts among `attempts` that succeed in an inner container.
fn done<'a>(container: &Container, flags: &[&str], attempts: &'a [String]) -> Vec<&'a str> {
    let tried: String = attempts
        .iter()
        .enumerate()
        .map(|(number, script)| {
            let number_end = "END";
            format!("cat >/{number} <<'{number_end}'\n{PRELUDE}\n{script}\n{number_end}\n(sh /{number}) >/dev/null 2>&1 && echo {number}\n")
        })
        .collect();
    let output = container.inner(flags, &["sh", "-c", &format!("{tried}echo end")]);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.last(), Some(&"end"), "{output}");
    lines
        .iter()
        .filter_map(|line| Some(attempts.get(line.parse::<usize>().ok()?)?.as_str()))
        .collect()
}

/// The containers in which an engine can be in a user namespace: by the profile, without one, and with
/// all of the host's devices and capabilities.
fn outers() -> [Spec; 3] {
    [
        rootless(),
        rootless_with(
            [
                ["--security-opt", "seccomp=unconfined"],
                ["--security-opt", "systempaths=unconfined"],
                ["--device", "/dev/net/tun"],
            ],
            crate::docker::ROOTLESS_CAPABILITIES,
        ),
        unprivileged()
            .flags(["--privileged"])
            .env("DIND_ROOTLESS", "1"),
    ]
}

#[test]
fn nothing_of_the_host_can_be_reached_from_inside() {
    let attempts: Vec<String> = attempts().into_iter().map(|one| one.script).collect();
    for outer in outers() {
        let container = outer.ready(&[]);
        container.load_busybox();
        assert_eq!(done(&container, &FREE, &attempts), Vec::<&str>::new());
        assert_eq!(container.inner(&[], &["echo", "alive"]), "alive");
    }
}

/// What harms nothing does succeed where the engine is privileged: the scripts mean what they say.
#[test]
fn a_privileged_engine_is_none() {
    let container = unprivileged().flags(["--privileged"]).ready(&[]);
    container.load_busybox();
    let harmless = attempts().into_iter().filter(|one| one.harmless);
    let harmless: Vec<String> = harmless.map(|one| one.script).collect();
    let flags = privileged();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let done = done(&container, &flags, &harmless);
    let refused: Vec<&String> = harmless
        .iter()
        .filter(|script| !done.contains(&script.as_str()))
        .collect();
    assert_eq!(refused, Vec::<&String>::new());
}

/// The processes outside: PID 1, which is the outer container's root, and its command.
#[test]
fn processes_outside_can_be_neither_read_nor_changed() {
    for outer in outers() {
        let container = outer.ready(&[]);
        container.load_busybox();
        // 20.10 wants to mount a /proc of this container's pid namespace, which is not the engine's.
        if major(&container) == 20 {
            let refused = container.exec(&["docker", "run", "--rm", "--pid=host", BUSYBOX, "true"]);
            assert_ne!(refused.status, 0, "{refused:?}");
            continue;
        }
        // The outer container's own, which its runtime has made. Keys are in no namespace.
        let id = container.inspect("{{.Id}}");
        let serial = container.sh(&format!("sed -n 's/ .*_ses.{id}.*//p' /proc/keys"));
        let serial = u32::from_str_radix(&serial, 16).expect("a serial number");
        // KEYCTL_READ, KEYCTL_DESCRIBE and KEYCTL_REVOKE.
        let keys = [11, 6, 3]
            .map(|operation| call(libc::SYS_keyctl, &format!("{operation} {serial} 0 0")));
        let attempts: Vec<String> = [
            "kill -9 1",
            "ls /proc/1/root",
            "ls /proc/1/fd",
            "cat /proc/1/environ",
            "cat /proc/1/maps",
            "head -c 1 /proc/1/mem",
            "echo 1 >/proc/1/oom_score_adj",
            "nsenter -t 1 -m true",
            "nsenter -t 1 -n true",
        ]
        .map(str::to_owned)
        .into_iter()
        // PTRACE_SEIZE and PTRACE_ATTACH.
        .chain([0x4206, 16].map(|request| call(libc::SYS_ptrace, &format!("{request} 1 0 0"))))
        .chain(keys)
        .collect();
        let flags = [&FREE[..], &["--pid=host"]].concat();
        assert_eq!(done(&container, &flags, &attempts), Vec::<&str>::new());
        assert!(container.runs());
    }
}

/// The settings that its root may change are those of its own namespaces: of the network, of IPC and of
/// the user namespace.
#[test]
fn only_settings_of_own_namespaces_can_be_written() {
    const SCRIPT: &str = "chroot /outer find /proc/sys -type f -exec perl -e '
        use Fcntl;
        for (@ARGV) { print qq($_\\n) if sysopen my $file, $_, O_WRONLY }' {} + || true";
    for outer in outers() {
        let container = outer.ready(&[]);
        container.load_busybox();
        let found = container.inner(&FREE, &["sh", "-c", SCRIPT]);
        // The last two are of the PID namespace: the latter since Linux 6.14.
        let own = |path: &str| {
            let name = path.strip_prefix("/proc/sys/").unwrap_or(path);
            ["net/", "user/", "fs/mqueue/"]
                .into_iter()
                .chain([
                    "kernel/msg",
                    "kernel/sem",
                    "kernel/shm",
                    "kernel/auto_msgmni",
                    "kernel/ns_last_pid",
                    "kernel/pid_max",
                ])
                .any(|start| name.starts_with(start))
        };
        let others: Vec<&str> = found.lines().filter(|path| !own(path)).collect();
        assert_eq!(others, Vec::<&str>::new());
    }
    // A privileged engine's root may change those of the host.
    let container = unprivileged().flags(["--privileged"]).ready(&[]);
    container.load_busybox();
    let flags = privileged();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let found = container.inner(&flags, &["sh", "-c", SCRIPT]);
    assert!(
        found
            .lines()
            .any(|path| path == "/proc/sys/kernel/core_pattern")
    );
}

/// Two containers of the outer engine: the root of one finds nothing of the other.
#[test]
fn a_container_beside_it_is_out_of_reach() {
    let other = unprivileged().start(&["sleep", "100007"]);
    let id = other.inspect("{{.Id}}");
    let container = rootless().flags(["--cgroupns=host"]).ready(&[]);
    container.load_busybox();
    let attempts = [
        format!(
            "for file in $(find /outer/sys/fs/cgroup -path '*{id}*' -name cgroup.procs); do echo $$ >$file && exit 0; done; exit 1"
        ),
        // Not the number itself, which is among the words of this shell.
        "grep -q 10000[7] /proc/[0-9]*/cmdline".to_owned(),
    ];
    assert_eq!(done(&container, &FREE, &attempts), Vec::<&str>::new());
    assert!(other.runs());
}
