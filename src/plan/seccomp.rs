//! The seccomp profile of a container in which dind runs without `--privileged`: what Docker allows
//! by default, and what an engine in a user namespace needs besides.
//!
//! It has neither conditions nor a map of architectures, as Docker's own has: containerd, which
//! reads it for Kubernetes (`localhostProfile`), knows neither and would apply every rule
//! (`WithProfile` in its contrib/seccomp). So each condition of Docker's is decided here: the kernel
//! is 4.8 or later, the architecture amd64 or arm64, and the capabilities are those that a container
//! has by default. Names that an architecture does not have are of no effect there.
//!
//! Docker's default is that of 28.5 (default_linux.go in github.com/moby/profiles/seccomp), which
//! docs.docker.com/engine/security/seccomp describes.

use nix::libc;
use serde_json::{Map, Value, json};

/// What Docker allows by default, whatever the arguments, by subject.
const DEFAULT: [(&str, &str); 16] = [
    (
        "files",
        "access chdir close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 \
         fadvise64 fadvise64_64 fallocate fchdir fcntl fcntl64 fdatasync flock fsync ftruncate \
         ftruncate64 getcwd getdents getdents64 ioctl link linkat _llseek lseek mkdir mkdirat mknod \
         mknodat name_to_handle_at open openat openat2 pread64 preadv preadv2 pwrite64 pwritev \
         pwritev2 read readahead readlink readlinkat readv rename renameat renameat2 rmdir symlink \
         symlinkat sync sync_file_range syncfs truncate truncate64 umask unlink unlinkat write \
         writev",
    ),
    (
        "metadata",
        "chmod chown chown32 fchmod fchmodat fchmodat2 fchown fchown32 fchownat fstat fstat64 \
         fstatat64 fstatfs fstatfs64 futimesat lchown lchown32 listmount lstat lstat64 newfstatat \
         stat stat64 statfs statfs64 statmount statx utime utimensat utimensat_time64 utimes",
    ),
    (
        "extended attributes",
        "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr \
         listxattrat llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr \
         setxattrat",
    ),
    (
        "waiting for descriptors",
        "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
         epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init \
         inotify_init1 inotify_rm_watch _newselect poll ppoll ppoll_time64 pselect6 \
         pselect6_time64 select",
    ),
    (
        "asynchronous input and output",
        "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit \
         ioprio_get ioprio_set",
    ),
    (
        "pipes and copies without a buffer",
        "pipe pipe2 sendfile sendfile64 splice tee vmsplice",
    ),
    (
        "sockets, but for their making",
        "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom \
         recvmmsg recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown \
         socketcall socketpair",
    ),
    (
        "memory",
        "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock \
         mlock2 mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap \
         pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages",
    ),
    (
        "processes and threads",
        "capget capset execve execveat exit exit_group fork getcpu getpgid getpgrp getpid getppid \
         getpriority getrlimit getrusage getsid gettid get_robust_list get_thread_area kill \
         pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace \
         rseq setpgid setpriority setrlimit setsid set_robust_list set_thread_area \
         set_tid_address tgkill tkill ugetrlimit vfork wait4 waitid waitpid",
    ),
    (
        "users and groups",
        "getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid \
         getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid \
         setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid \
         setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32",
    ),
    (
        "scheduling",
        "sched_getaffinity sched_getattr sched_getparam sched_get_priority_max \
         sched_get_priority_min sched_getscheduler sched_rr_get_interval \
         sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
         sched_setscheduler sched_yield",
    ),
    (
        "signals",
        "alarm getitimer pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask \
         rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
         rt_tgsigqueueinfo setitimer sigaltstack signalfd signalfd4 sigprocmask sigreturn",
    ),
    (
        "time",
        "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
         clock_gettime64 clock_nanosleep clock_nanosleep_time64 gettimeofday nanosleep time \
         timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime \
         timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
         timerfd_settime64 times",
    ),
    (
        "queues, semaphores, shared memory and futexes",
        "futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr \
         mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
         mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop \
         semtimedop_time64 shmat shmctl shmdt shmget",
    ),
    (
        "the system, and own restrictions",
        "getrandom landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp \
         sysinfo uname uretprobe riscv_hwprobe",
    ),
    (
        "amd64 and arm64",
        "arch_prctl modify_ldt arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls \
         sync_file_range2",
    ),
];

/// The values of personality(2) that Docker allows: PER_LINUX, PER_LINUX32, with or without UNAME26,
/// and the question which it is.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, u32::MAX];

/// What an engine in a user namespace needs besides, and what for. The kernel allows each of them in
/// namespaces of one's own only, or with what one owns.
pub const ADDITIONS: [(&str, &str); 9] = [
    (
        "chroot",
        "inner containers, and dockerd 20.10, which unpacks layers in it; Docker allows it with \
         CAP_SYS_CHROOT only",
    ),
    ("clone", "runc makes the namespaces of containers"),
    (
        "keyctl",
        "runc gives each container a session keyring of its own",
    ),
    (
        "mount",
        "the data root's layers, and what containers have mounted",
    ),
    ("pivot_root", "the root directory of each container"),
    ("sethostname", "the host name of each container"),
    (
        "setns",
        "docker exec, and daemons in the engine's namespaces",
    ),
    ("umount2", "layers that are no longer used"),
    ("unshare", "dind makes the engine's namespaces"),
];

/// What is denied as if the kernel did not have it, so that programs ask for what is older: they do
/// so on ENOSYS, and on EPERM they give up.
const MISSING: [(&str, &str); 2] = [
    // As in Docker's default: its flags are in memory, where a filter cannot look.
    ("clone3", "clone"),
    // mount(8) of util-linux 2.39 and later: `fsopen_is_supported` in its libmount. They are as
    // mighty as mount(2), and no container needs them.
    (
        "fsconfig fsmount fsopen fspick mount_setattr move_mount open_tree",
        "mount",
    ),
];

/// The flags of clone(2) for namespaces, which Docker's default denies.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// The architectures that there are binaries for, with those that their kernels run, too.
const ARCHITECTURES: [&str; 5] = [
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
];

/// What is done with a system call.
#[derive(Debug, Clone, Copy)]
enum Action {
    Allow,
    /// It fails with this errno.
    Fail(i32),
}

/// A rule of a profile.
fn rule(names: &[&str], action: Action, argument: Option<Value>, comment: &str) -> Value {
    let mut rule = Map::new();
    rule.insert("names".into(), json!(names));
    let action = match action {
        Action::Allow => "SCMP_ACT_ALLOW",
        Action::Fail(errno) => {
            rule.insert("errnoRet".into(), json!(errno));
            "SCMP_ACT_ERRNO"
        }
    };
    rule.insert("action".into(), json!(action));
    rule.insert("args".into(), argument.into_iter().collect());
    rule.insert("comment".into(), json!(comment));
    Value::Object(rule)
}

/// The first argument of a system call is compared with a value.
fn first_argument(comparison: &str, value: u32) -> Option<Value> {
    Some(json!({ "index": 0, "value": value, "valueTwo": 0, "op": comparison }))
}

/// The text of the profile, as Docker, Podman and Kubernetes read it.
pub fn text() -> String {
    serde_json::to_string_pretty(&profile()).unwrap_or_default()
}

/// The profile.
pub fn profile() -> Value {
    profile_without(None)
}

/// The profile without one of [`ADDITIONS`], to see what it is for: as Docker's default has it.
pub fn profile_without(left_out: Option<&str>) -> Value {
    let mut rules = Vec::new();
    for (subject, names) in DEFAULT {
        let names: Vec<&str> = names.split(' ').collect();
        rules.push(rule(&names, Action::Allow, None, subject));
    }
    let vsock = u32::try_from(libc::AF_VSOCK).unwrap_or_default();
    let not_vsock = first_argument("SCMP_CMP_NE", vsock);
    rules.push(rule(
        &["socket"],
        Action::Allow,
        not_vsock,
        "not to the hypervisor",
    ));
    for personality in PERSONALITIES {
        let same = first_argument("SCMP_CMP_EQ", personality);
        rules.push(rule(&["personality"], Action::Allow, same, "of Linux"));
    }
    for (names, instead) in MISSING {
        let names: Vec<&str> = names.split(' ').collect();
        let comment = format!("{instead} is asked instead");
        rules.push(rule(&names, Action::Fail(libc::ENOSYS), None, &comment));
    }
    if left_out == Some("clone") {
        let none = Some(json!({
            "index": 0,
            "value": NAMESPACES,
            "valueTwo": 0,
            "op": "SCMP_CMP_MASKED_EQ",
        }));
        rules.push(rule(&["clone"], Action::Allow, none, "without namespaces"));
    }
    let additions = ADDITIONS.iter();
    for (name, reason) in additions.filter(|(name, _)| left_out != Some(*name)) {
        rules.push(rule(&[name], Action::Allow, None, reason));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": ARCHITECTURES,
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_call_is_there_once() {
        let names = DEFAULT.iter().flat_map(|(_, names)| names.split(' '));
        let additions = ADDITIONS.iter().map(|(name, _)| *name);
        let all: Vec<&str> = names.chain(additions).collect();
        let different: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), different.len());
        let is_name = |name: &&str| {
            let mut bytes = name.bytes();
            !name.is_empty()
                && bytes
                    .all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        assert!(all.iter().all(is_name), "{all:?}");
    }

    /// What takes over the host, whoever may do it, is closed: each is one that Docker closes.
    #[test]
    fn what_is_the_hosts_is_closed() {
        let profile = profile();
        let rules = profile["syscalls"].as_array().into_iter().flatten();
        let open: BTreeSet<&str> = rules
            .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW")
            .flat_map(|rule| rule["names"].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        for name in [
            "acct",
            "add_key",
            "bpf",
            "clock_settime",
            "clone3",
            "delete_module",
            "finit_module",
            "fsopen",
            "init_module",
            "io_uring_setup",
            "ioperm",
            "iopl",
            "kexec_file_load",
            "kexec_load",
            "mount_setattr",
            "move_mount",
            "open_by_handle_at",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "reboot",
            "request_key",
            "setdomainname",
            "settimeofday",
            "swapoff",
            "swapon",
            "syslog",
            "umount",
            "userfaultfd",
            "vhangup",
        ] {
            assert!(!open.contains(name), "{name}");
        }
        assert!(open.contains("socket") && open.contains("unshare"));
    }

    /// containerd's CRI unmarshals it into the runtime's own format, which has nothing else.
    #[test]
    fn there_is_nothing_that_the_runtime_does_not_know() {
        let profile = profile();
        let keys = |value: &Value| -> BTreeSet<String> {
            let object = value.as_object().into_iter().flatten();
            object.map(|(key, _)| key.clone()).collect()
        };
        let top = [
            "architectures",
            "defaultAction",
            "defaultErrnoRet",
            "syscalls",
        ];
        assert_eq!(keys(&profile), top.map(str::to_owned).into());
        let rules = profile["syscalls"].as_array().cloned().unwrap_or_default();
        let known = ["action", "args", "comment", "errnoRet", "names"];
        let known: BTreeSet<String> = known.map(str::to_owned).into();
        for rule in rules {
            assert!(keys(&rule).is_subset(&known), "{rule}");
        }
    }

    #[test]
    fn each_addition_can_be_left_out() {
        let whole = profile();
        let count = |profile: &Value| profile["syscalls"].as_array().map_or(0, Vec::len);
        for (name, _) in ADDITIONS {
            let without = profile_without(Some(name));
            // Without the addition processes are made all the same.
            let rest = usize::from(name != "clone");
            assert_eq!(count(&without) + rest, count(&whole), "{name}");
        }
    }
}
