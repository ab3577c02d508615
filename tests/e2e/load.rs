//! Much at once, and for long: PID 1 is the same afterwards as before.

use crate::docker::{BUSYBOX, Container, all, dind};

/// What PID 1 may have more in memory afterwards, in KiB: code that it had not needed before,
/// which the kernel maps by 64 KiB. 27 bytes lost for each of 10,000 orphans are more.
const MORE_MEMORY: u64 = 256;

/// What PID 1 has: its memory in KiB, and its descriptors with what they are.
///
/// From smaps_rollup, which looks at the page tables: since 6.2 the kernel's own counter,
/// VmRSS, is only about right, by 64 pages a processor (proc_pid_statm(5), BUGS).
struct Held {
    memory: u64,
    descriptors: String,
}

impl Held {
    #[track_caller]
    fn by_pid_1(container: &Container) -> Self {
        let memory = container.sh("awk '/^Rss:/ { print $2 }' /proc/1/smaps_rollup");
        Self {
            memory: memory.parse().expect("smaps_rollup has a number of KiB"),
            descriptors: container
                .sh("cd /proc/1/fd && for one in *; do echo $one $(readlink $one); done"),
        }
    }
}

/// Waits until no process is a zombie, and finds PID 1 as it was `before`.
#[track_caller]
fn nothing_is_left(container: &Container, before: &Held) {
    container.wait_until("! ps -eo stat= | grep -q Z");
    let after = Held::by_pid_1(container);
    eprintln!(
        "PID 1 has {} KiB of memory, and had {} KiB",
        after.memory, before.memory
    );
    assert_eq!(after.descriptors, before.descriptors);
    assert!(
        after.memory <= before.memory + MORE_MEMORY,
        "PID 1 had {} KiB of memory and has {} KiB",
        before.memory,
        after.memory
    );
}

/// 80 containers by 8 clients at once, by `tests/lab test --all` 200: all do their work, all are
/// removed.
#[test]
fn many_containers_by_eight_clients_at_once() {
    let each = if all() { 25 } else { 10 };
    let container = dind().ready(&[]);
    container.load_busybox();
    // The code for it is in memory from then on.
    container.inner(&[], &["true"]);
    container.wait_until("! ps -eo stat= | grep -q Z");
    let before = Held::by_pid_1(&container);
    let client = format!(
        "for number in $(seq {each}); do
             docker run --rm {BUSYBOX} echo \"$1 $number\" || echo \"$1 $number: status $?\"
         done"
    );
    let clients = format!("seq 8 | xargs -P 8 -I NUMBER sh -c '{client}' client NUMBER");
    let mut said: Vec<String> = container.sh(&clients).lines().map(str::to_owned).collect();
    said.sort();
    let mut expected: Vec<String> = (1..=8)
        .flat_map(|client| (1..=each).map(move |number| format!("{client} {number}")))
        .collect();
    expected.sort();
    assert_eq!(said, expected);
    assert_eq!(container.text(&["docker", "ps", "--all", "--quiet"]), "");
    nothing_is_left(&container, &before);
}

/// 10,000 orphans, at most 8 of them at once: each has PID 1 as its parent before it ends,
/// and is reaped.
#[test]
fn ten_thousand_orphans_are_reaped() {
    // The parent of the orphan, a subshell, ends at once. Until then the orphan waits.
    let orphans = |each: u32| {
        format!(
            r#"orphan() {{
                   local name value
                   until [ "$name $value" = 'PPid: 1' ]; do
                       while read -r name value && [ "$name" != PPid: ]; do :; done </proc/self/status
                   done
                   printf . >>/orphans
               }}
               family() {{
                   for ((number = 0; number < {each}; number++)); do
                       (orphan &)
                   done
               }}
               for family in {{1..8}}; do family & done
               wait"#
        )
    };
    let container = dind().ready(&[]);
    let run = |each: u32| {
        container.text(&["bash", "-c", &format!(": >/orphans; {}", orphans(each))]);
        container.wait_until(&format!("[ $(wc -c </orphans) = {} ]", 8 * each));
        container.wait_until("! ps -eo stat= | grep -q Z");
    };
    run(1);
    let before = Held::by_pid_1(&container);
    run(1250);
    nothing_is_left(&container, &before);
    container.load_busybox();
    assert_eq!(container.inner(&[], &["echo", "inside"]), "inside");
}
