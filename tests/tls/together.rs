//! Several daemons, and clients that wait for them, on one directory.

use std::fs::File;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;

use dind::sys::lock::Record;
use dind::tls::certificate::Certificate;
use dind::tls::key;
use dind::tls::purpose::Purpose;
use dind::tls::verify::{self, Verdict};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use super::*;

/// What a process of its own does: waits for the end of its input, so that all begin at
/// once, and makes what a daemon of the given name needs.
fn daemon() -> bool {
    let Ok(task) = std::env::var(INSIDE) else {
        return false;
    };
    let (path, names) = task.split_once('|').unwrap();
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    match tls::prepare(path.as_ref(), &list(names), SystemTime::now()) {
        Ok(summary) => println!("summary: {summary} {:?}", summary.warnings),
        Err(error) => panic!("{error:#}"),
    }
    true
}

/// Runs a daemon for each of the names, all at once, and gives what they say.
fn daemons(test: &str, certificates: &Certificates, names: &[String]) -> Vec<String> {
    let start = |names: &String| {
        let task = format!("{}|{names}", certificates.0.display());
        let mut command = again(test, &[], &task);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut children: Vec<_> = names.iter().map(start).collect();
    for child in &mut children {
        drop(child.stdin.take());
    }
    let end = |child: std::process::Child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let said = text
            .split("summary: ")
            .nth(1)
            .unwrap_or_else(|| panic!("{text}"));
        said.lines().next().unwrap().to_owned()
    };
    children.into_iter().map(end).collect()
}

#[test]
fn twelve_daemons_agree() {
    if daemon() {
        return;
    }
    let names: Vec<String> = (1..=12).map(|n| format!("IP:10.0.0.{n}")).collect();
    for _ in 0..8 {
        let certificates = Certificates::new();
        let said = daemons("together::twelve_daemons_agree", &certificates, &names);
        let made = |what: &str| said.iter().filter(|said| said.contains(what)).count();
        assert_eq!(made("made ca ("), 1, "{said:#?}");
        assert_eq!(made("client ("), 1, "{said:#?}");
        assert_eq!(made("your own"), 0, "{said:#?}");
        assert_eq!(made(" []"), 12, "{said:#?}");
        certificates.verify();
        let all = names.iter().map(|name| name.replace("IP:", "IP Address:"));
        assert_eq!(certificates.names(), all.collect());
        let found: BTreeSet<String> = certificates.files().into_keys().collect();
        assert_eq!(found, ALL.map(str::to_owned).into());
    }
}

/// A client takes client/ca.pem for the sign that everything is there.
#[test]
fn whoever_waits_for_ca_pem_finds_what_fits() {
    if daemon() {
        return;
    }
    let test = "together::whoever_waits_for_ca_pem_finds_what_fits";
    let certificates = Certificates::new();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // However this ends.
        let over = Over(&is_over);
        let client = scope.spawn(|| {
            let mut found = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                found += u32::from(look(&certificates));
                std::thread::yield_now();
            }
            found
        });
        // From nothing, with another authority, with another key.
        for damage in [
            "rm -r ca server client",
            "rm -r ca server",
            "rm client/key.pem",
        ]
        .repeat(8)
        {
            daemons(
                test,
                &certificates,
                &["DNS:docker".to_owned(), "DNS:b".to_owned()],
            );
            // As a daemon would: a client that has seen ca.pem has time to read.
            certificates.sh(&format!("rm client/ca.pem; {damage}"));
        }
        drop(over);
        let found = client
            .join()
            .unwrap_or_else(|failure| std::panic::resume_unwind(failure));
        assert!(found > 0, "the client never saw anything");
    });
}

/// Says that it is over when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether the client's three files were there. They must fit each other unless they were
/// replaced meanwhile.
fn look(certificates: &Certificates) -> bool {
    let read = |name: &str| fs::read(certificates.path("client").join(name));
    let Ok(ca) = read("ca.pem") else { return false };
    let (certificate, key) = (read("cert.pem"), read("key.pem"));
    // Withdrawn while it was read: a client would begin again.
    if read("ca.pem").ok().as_ref() != Some(&ca) {
        return false;
    }
    let [ca, certificate] =
        [ca, certificate.unwrap()].map(|pem| Certificate::read_first(&pem).unwrap());
    let key = key::read(&key.unwrap()).unwrap();
    assert_eq!(key::public(&key), certificate.public_key, "another key");
    let now = SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let verdict = verify::chain(&certificate, &[], &[&ca], Purpose::Client, now);
    assert_eq!(verdict, Verdict::Good);
    true
}

/// SIGALRM is blocked in every thread of these processes, as it is in PID 1: only the one
/// that waits for the lock gets it.
const LIKE_PID_1: &[&str] = &["env", "--block-signal=ALRM"];

#[test]
fn a_lock_that_is_held_is_waited_for_only_so_long() {
    let test = "together::a_lock_that_is_held_is_waited_for_only_so_long";
    inside(test, LIKE_PID_1, || {
        let certificates = Certificates::new();
        let open = || File::open(&certificates.0).unwrap();
        let held = Flock::lock(open(), FlockArg::LockExclusive).unwrap();
        // Of this thread: the harness's others come and go with masks of their own.
        let signals = || -> Vec<String> {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let is_wanted = |line: &&str| line.starts_with("SigBlk") || line.starts_with("SigCgt");
            status
                .lines()
                .filter(is_wanted)
                .map(str::to_owned)
                .collect()
        };
        let before = signals();
        let second = Duration::from_secs(1);
        assert_eq!(
            dind::sys::lock::lock(&open(), libc::LOCK_EX, second),
            Err(Errno::EINTR)
        );
        assert_eq!(signals(), before);
        drop(held);
        assert_eq!(
            dind::sys::lock::lock(&open(), libc::LOCK_EX, second),
            Ok(())
        );
    });
}

#[test]
fn a_lock_that_becomes_free_is_taken() {
    let test = "together::a_lock_that_becomes_free_is_taken";
    inside(test, LIKE_PID_1, || {
        let certificates = Certificates::new();
        let open = || File::open(&certificates.0).unwrap();
        let held = Flock::lock(open(), FlockArg::LockExclusive).unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&open().metadata().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_waited_for(inode) {
                    std::thread::yield_now();
                }
                drop(held);
            });
            assert_eq!(
                dind::sys::lock::lock(&open(), libc::LOCK_EX, Duration::from_secs(60)),
                Ok(())
            );
        });
    });
}

/// The file by which daemons take turns.
const LOCK: &str = "ca/.dind-lock";

/// What a client can do with the volume, whatever its user and however it is mounted: lock all that
/// it can open for reading.
#[test]
fn what_clients_can_lock_holds_up_nobody() {
    let test = "together::what_clients_can_lock_holds_up_nobody";
    inside(test, LIKE_PID_1, || {
        let certificates = Certificates::made("DNS:first");
        certificates.sh(&format!("touch {LOCK}"));
        let found = certificates.sh("find . ! -name . ! -name .dind-lock");
        let held: Vec<_> = found
            .lines()
            .map(|name| File::open(certificates.path(name)).unwrap())
            .map(|file| Flock::lock(file, FlockArg::LockExclusive).unwrap())
            .collect();
        assert_eq!(held.len(), 3 + ALL.len());
        let lock = File::open(certificates.path(LOCK)).unwrap();
        Record::Read.set(&lock).unwrap();
        let _flock = Flock::lock(lock.try_clone().unwrap(), FlockArg::LockExclusive).unwrap();
        let summary = certificates.prepare("DNS:second").unwrap();
        assert!(
            summary
                .to_string()
                .ends_with(": made server (the names changed)"),
            "{summary}"
        );
        assert_eq!(summary.warnings, Vec::<String>::new());
        let names = ["DNS:first", "DNS:second"].map(str::to_owned);
        assert_eq!(certificates.names(), names.into());
        assert!(!certificates.path(LOCK).exists());
    });
}

/// Opens the file as only a daemon does.
fn for_writing(certificates: &Certificates) -> File {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    options.open(certificates.path(LOCK)).unwrap()
}

#[test]
fn another_daemon_is_waited_for() {
    let test = "together::another_daemon_is_waited_for";
    inside(test, LIKE_PID_1, || {
        let certificates = Certificates::new();
        certificates.sh("mkdir ca");
        let held = for_writing(&certificates);
        Record::Write.set(&held).unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&held.metadata().unwrap());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| certificates.prepare("DNS:docker"));
            while !is_waited_for(inode) {
                std::thread::yield_now();
            }
            assert_eq!(certificates.sh("find . -name '*.pem'"), "");
            // As a daemon does, so that the second has to look for the new file.
            fs::remove_file(certificates.path(LOCK)).unwrap();
            drop(held);
            let summary = second.join().unwrap().unwrap();
            assert_eq!(summary.warnings, Vec::<String>::new());
        });
        certificates.verify();
        let found: BTreeSet<String> = certificates.files().into_keys().collect();
        assert_eq!(found, ALL.map(str::to_owned).into());
    });
}

/// Whether a process waits for a lock on this file: proc_locks(5).
fn is_waited_for(inode: u64) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let inode = format!(":{inode} ");
    locks
        .lines()
        .any(|line| line.contains("->") && line.contains(&inode))
}

#[test]
fn a_daemon_that_does_not_finish_is_not_waited_for_for_ever() {
    let test = "together::a_daemon_that_does_not_finish_is_not_waited_for_for_ever";
    inside(test, LIKE_PID_1, || {
        let certificates = Certificates::made("DNS:first");
        let held = for_writing(&certificates);
        Record::Write.set(&held).unwrap();
        let summary = certificates.prepare("DNS:second").unwrap();
        let warnings = summary.warnings.join("\n");
        assert!(
            warnings.contains("ca/.dind-lock is locked by another daemon"),
            "{warnings}"
        );
        assert!(certificates.names().contains("DNS:second"));
    });
}

/// The file of a daemon that was killed.
#[test]
fn a_file_without_a_lock_is_no_lock() {
    let certificates = Certificates::new();
    certificates.sh("mkdir ca; touch ca/.dind-lock");
    let summary = certificates.prepare("DNS:docker").unwrap();
    assert_eq!(summary.warnings, Vec::<String>::new());
    certificates.verify();
    assert!(!certificates.path(LOCK).exists());
}
