//! Which containers a stop need not wait for.
//!
//! The kernel drops a signal to PID 1 of a pid namespace that has no handler for it: pid_namespaces(7),
//! `sig_task_ignored` in the kernel's kernel/signal.c. So a container without a handler for its stop
//! signal is deaf: dockerd waits for it until its time is over, and then kills it.

use std::time::Duration;

use nix::libc;

use crate::facts::containers::{Container, StopSettings, has};

/// The containers that are deaf, and whose end takes nothing from another one. `longest` is the time
/// of the whole stop: with a longer stop time-out of its own, a container gets all the time there is.
pub fn deaf(containers: &[Container], longest: Duration) -> Vec<&Container> {
    let is_deaf = |container: &&Container| hears_nothing(container, longest);
    let (deaf, others): (Vec<&Container>, Vec<&Container>) =
        containers.iter().partition(|container| is_deaf(container));
    // With `--pid=container:NAME` and `--network=container:NAME` one container is in the namespaces
    // of another: it would end with that, or lose its network.
    let is_shared = |container: &&Container| {
        others.iter().any(|other| {
            let own = &container.process.namespaces;
            !own.is_disjoint(&other.process.namespaces)
        })
    };
    deaf.into_iter()
        .filter(|container| !is_shared(container))
        .collect()
}

/// Whether a container seems to be deaf. A process that waits in sigwait(3) seems so, too: what it
/// waits for is not among the blocked signals in `/proc` (`do_sigtimedwait`).
fn hears_nothing(container: &Container, longest: Duration) -> bool {
    let Some(StopSettings { signal, timeout }) = container.settings else {
        return false;
    };
    let process = &container.process;
    // These two take effect on every process, where they come from outside its namespace.
    let is_dropped = !matches!(signal, libc::SIGKILL | libc::SIGSTOP);
    // A negative one is for ever.
    let fits = |seconds| u64::try_from(seconds).is_ok_and(|seconds| seconds <= longest.as_secs());
    process.init
        && !process.traced
        && is_dropped
        && !has(process.caught | process.blocked, signal)
        && timeout.is_none_or(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::containers::MainProcess;

    const LONGEST: Duration = Duration::from_secs(9);

    /// A container that is deaf, in namespaces of its own.
    fn sleeper(name: &str) -> Container {
        Container {
            name: name.into(),
            settings: Some(StopSettings {
                signal: libc::SIGTERM,
                timeout: None,
            }),
            process: MainProcess {
                init: true,
                namespaces: [
                    format!("pid:[{name}]").into(),
                    format!("net:[{name}]").into(),
                ]
                .into(),
                ..MainProcess::default()
            },
        }
    }

    fn names(containers: &[Container]) -> Vec<&str> {
        let deaf = deaf(containers, LONGEST);
        deaf.into_iter()
            .map(|container| container.name.as_str())
            .collect()
    }

    #[test]
    fn a_container_is_deaf_where_the_kernel_drops_its_stop_signal() {
        let settings = |container: &mut Container, signal, timeout| {
            container.settings = Some(StopSettings { signal, timeout });
        };
        let term = 1 << (libc::SIGTERM - 1);
        let interrupt = 1 << (libc::SIGINT - 1);
        assert_eq!(names(&[sleeper("a")]), ["a"]);
        type Change<'a> = &'a dyn Fn(&mut Container);
        let cases: [(&str, bool, Change<'_>); 14] = [
            ("another handler", true, &|it| it.process.caught = !term),
            ("another one blocked", true, &|it| {
                it.process.blocked = !term
            }),
            ("another signal", true, &|it| {
                settings(it, libc::SIGWINCH, None)
            }),
            ("a real-time signal", true, &|it| settings(it, 64, None)),
            ("as long as ours", true, &|it| {
                settings(it, libc::SIGTERM, Some(9))
            }),
            ("at once", true, &|it| settings(it, libc::SIGTERM, Some(0))),
            ("longer than ours", false, &|it| {
                settings(it, libc::SIGTERM, Some(10))
            }),
            ("for ever", false, &|it| {
                settings(it, libc::SIGTERM, Some(-1))
            }),
            ("a handler", false, &|it| it.process.caught = term),
            ("blocked", false, &|it| it.process.blocked = term),
            ("the other signal's handler", false, &|it| {
                settings(it, libc::SIGINT, None);
                it.process.caught = interrupt;
            }),
            ("SIGKILL", false, &|it| settings(it, libc::SIGKILL, None)),
            ("traced", false, &|it| it.process.traced = true),
            ("not PID 1", false, &|it| it.process.init = false),
        ];
        for (name, expected, change) in cases {
            let mut container = sleeper("a");
            change(&mut container);
            assert_eq!(names(&[container]).len(), usize::from(expected), "{name}");
        }
        let unknown = Container {
            settings: None,
            ..sleeper("a")
        };
        assert_eq!(names(&[unknown]), [""; 0]);
    }

    #[test]
    fn nobody_loses_a_namespace_who_hears_the_signal() {
        let shares = |name: &str, other: &Container| {
            let mut container = sleeper(name);
            container.process.namespaces = other.process.namespaces.clone();
            container
        };
        let (a, b) = (sleeper("a"), sleeper("b"));
        // Each can be ended.
        assert_eq!(
            names(&[a.clone(), b.clone(), shares("c", &a)]),
            ["a", "b", "c"]
        );
        let mut listener = shares("c", &a);
        listener.process.caught = u64::MAX;
        assert_eq!(names(&[a.clone(), b.clone(), listener]), ["b"]);
        // In its pid namespace the default action of a signal has effect.
        let mut guest = shares("c", &a);
        guest.process.init = false;
        assert_eq!(names(&[guest, a, b]), ["b"]);
    }
}
