//! The machine, fed with the events of whole lives of a container.

#![allow(clippy::expect_used, reason = "a test that cannot go on must fail")]

use std::time::Duration;

use nix::libc;
use proptest::prelude::*;

use super::restart::FIRST_PAUSE;
use super::start::DIAGNOSIS;
use super::stop::{LEAST, LEAST_KILLED};
use super::*;
use crate::messages::fault::FAILURE;
use crate::plan::stop_budget::StopBudget;
use crate::sys::end::End;

const SECOND: Duration = Duration::from_secs(1);

/// The budget of a stop of nine seconds without hooks.
const NINE: StopBudget = StopBudget {
    total: Duration::from_secs(9),
    inner: None,
    command: Duration::from_secs(4),
    hook: Duration::from_secs(4),
    hooks: Duration::from_secs(4),
    abandoned: Duration::from_millis(4_250),
    containers: Duration::from_secs(6),
    dockerd: Duration::from_secs(8),
    containerd: Duration::from_millis(8_500),
    end: Duration::from_millis(8_750),
    sweep: Duration::from_secs(600),
    hook_grace: Duration::from_millis(500),
};

const SERVE: Settings = Settings {
    namespaces: false,
    filler: false,
    saves: false,
    command: false,
    terminal: false,
    containerd: true,
    data_file: Need::None,
    certificates: false,
    joiner: false,
    delegation: false,
    relay: false,
    log_file: true,
    loader: Need::None,
    pre_start: false,
    post_start: false,
    pre_stop: false,
    ends_deaf: false,
    forwarder: false,
    grower: false,
    port_forwarder: false,
    restarts: 0,
    ready_timeout: Duration::from_secs(60),
    stop: NINE,
    sweeps: false,
};
const COMMAND: Settings = Settings {
    command: true,
    ..SERVE
};
const SHELL: Settings = Settings {
    terminal: true,
    ..COMMAND
};

const fn exited(process: Process, status: u8) -> Event {
    Event::Ended(process, End::Exited(status))
}

const fn killed(process: Process, signal: i32) -> Event {
    Event::Ended(process, End::Signaled(signal))
}

const fn send(process: Process, signal: i32) -> Effect {
    Effect::Send(process, signal)
}

/// The machine when both daemons have just been started.
fn begun(settings: Settings) -> Machine {
    let mut machine = Machine::new(settings);
    let effects = machine.step(Event::Begin, Duration::ZERO);
    assert_eq!(effects, [Effect::StartDaemons]);
    machine
}

/// Feeds events, all at one second, and returns the effects, without the log messages.
fn life(settings: Settings, events: &[Event]) -> Vec<Effect> {
    let mut machine = begun(settings);
    events
        .iter()
        .flat_map(|event| machine.step(*event, SECOND))
        .filter(|effect| !matches!(effect, Effect::Log(_) | Effect::ExplainKill(_)))
        .collect()
}

use Process::{Command, Containerd, Dockerd};
use Process::{Loader, Mounter, PostStart, PreStart, PreStop};
use libc::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

#[test]
fn serve_stops_dockerd_once_and_then_containerd() {
    // 37 is Docker's SIGRTMIN+3.
    for signal in [SIGTERM, SIGINT, SIGQUIT, 37] {
        let effects = life(
            SERVE,
            &[
                Event::Ready,
                Event::Signal(signal),
                Event::Signal(signal),
                Event::Signal(SIGTERM),
                exited(Dockerd, 0),
                exited(Containerd, 0),
            ],
        );
        assert_eq!(
            effects,
            [
                Effect::AnnounceReady,
                send(Dockerd, SIGTERM),
                send(Containerd, SIGTERM),
                Effect::Exit(0)
            ]
        );
    }
}

#[test]
fn a_stop_before_dockerd_handles_sigterm_has_status_0_too() {
    let effects = life(
        SERVE,
        &[
            Event::Signal(SIGTERM),
            killed(Dockerd, SIGTERM),
            exited(Containerd, 0),
        ],
    );
    assert_eq!(
        effects,
        [
            send(Dockerd, SIGTERM),
            send(Containerd, SIGTERM),
            Effect::Exit(0)
        ]
    );
}

#[test]
fn dockerds_status_is_the_containers() {
    for (end, status) in [
        (End::Exited(3), 3),
        (End::Exited(0), 0),
        (End::Signaled(9), 137),
    ] {
        // The ender of containers runs where dockerd has failed.
        let ender = (end != End::Exited(0)).then(|| exited(Process::Ender, 0));
        let events: Vec<Event> = [Event::Ready, Event::Ended(Dockerd, end)]
            .into_iter()
            .chain(ender)
            .chain([exited(Containerd, 0)])
            .collect();
        let effects = life(SERVE, &events);
        assert_eq!(effects.last(), Some(&Effect::Exit(status)));
    }
}

#[test]
fn serve_forwards_sighup_and_sigusr1_once_dockerd_handles_them() {
    let effects = life(
        SERVE,
        &[
            Event::Signal(SIGHUP),
            Event::Signal(SIGHUP),
            Event::Ready,
            Event::Signal(SIGUSR1),
            Event::Signal(SIGUSR2),
            // SIGRTMIN+4 powers off under systemd, and is nobody's stop signal.
            Event::Signal(38),
        ],
    );
    assert_eq!(
        effects,
        [
            Effect::AnnounceReady,
            send(Dockerd, SIGHUP),
            send(Dockerd, SIGUSR1)
        ]
    );
}

#[test]
fn the_commands_status_is_the_containers_and_the_daemons_stop_in_order() {
    let effects = life(
        COMMAND,
        &[
            Event::Ready,
            exited(Command, 42),
            exited(Dockerd, 1),
            exited(Process::Ender, 0),
            exited(Containerd, 1),
        ],
    );
    assert_eq!(
        effects,
        [
            Effect::AnnounceReady,
            Effect::StartCommand,
            send(Dockerd, SIGTERM),
            Effect::Fork(Process::Ender),
            send(Containerd, SIGTERM),
            Effect::Exit(42)
        ]
    );
    let effects = life(
        COMMAND,
        &[
            Event::Ready,
            killed(Command, SIGKILL),
            exited(Dockerd, 0),
            exited(Containerd, 0),
        ],
    );
    assert_eq!(effects.last(), Some(&Effect::Exit(137)));
}

#[test]
fn the_command_gets_every_signal_and_a_terminals_shell_a_hangup_too() {
    for signal in [
        SIGINT,
        SIGHUP,
        SIGUSR1,
        SIGQUIT,
        SIGWINCH,
        libc::SIGRTMIN() + 3,
    ] {
        let effects = life(COMMAND, &[Event::Ready, Event::Signal(signal)]);
        assert_eq!(effects.last(), Some(&send(Command, signal)));
    }
    let effects = life(SHELL, &[Event::Ready, Event::Signal(SIGTERM)]);
    assert!(
        effects.ends_with(&[send(Command, SIGTERM), send(Command, SIGHUP)]),
        "{effects:?}"
    );
    let effects = life(
        COMMAND,
        &[Event::Ready, Event::Signal(SIGTERM), exited(Command, 5)],
    );
    assert!(
        effects.ends_with(&[send(Command, SIGTERM), send(Dockerd, SIGTERM)]),
        "{effects:?}"
    );
}

#[test]
fn a_stop_before_the_command_began_has_the_signals_status() {
    for signal in [SIGINT, SIGTERM, SIGQUIT, SIGHUP, 37] {
        let effects = life(
            COMMAND,
            &[
                Event::Signal(signal),
                exited(Dockerd, 0),
                exited(Containerd, 0),
            ],
        );
        let status = End::Signaled(signal).status();
        assert_eq!(effects.last(), Some(&Effect::Exit(status)));
        assert!(!effects.contains(&Effect::StartCommand));
    }
}

#[test]
fn a_command_that_cannot_start_has_the_shells_status() {
    let effects = life(
        COMMAND,
        &[
            Event::Ready,
            Event::NotStarted(Command, 127),
            exited(Dockerd, 0),
            exited(Containerd, 0),
        ],
    );
    assert_eq!(effects.last(), Some(&Effect::Exit(127)));
}

/// The signal arrived in the same turn of the loop in which the start failed.
#[test]
fn a_command_that_cannot_start_after_a_stop_began_ends_the_stop_too() {
    let effects = life(
        COMMAND,
        &[
            Event::Ready,
            Event::Signal(SIGTERM),
            Event::NotStarted(Command, 126),
            exited(Dockerd, 0),
            exited(Containerd, 0),
        ],
    );
    assert_eq!(effects.last(), Some(&Effect::Exit(126)));
}

#[test]
fn dockerd_dead_before_ready_ends_the_container_but_not_a_shell_on_a_terminal() {
    for settings in [SERVE, COMMAND] {
        let events = [
            exited(Dockerd, 0),
            exited(Process::Diagnosis, 0),
            exited(Containerd, 0),
        ];
        assert_eq!(
            life(settings, &events),
            [
                fork(Process::Diagnosis),
                send(Containerd, SIGTERM),
                Effect::Exit(1)
            ]
        );
    }
    // Whatever has ended, the user may look for the reason on a terminal.
    let effects = life(
        SHELL,
        &[
            exited(Dockerd, 1),
            exited(Process::Diagnosis, 1),
            exited(Command, 0),
            exited(Containerd, 0),
        ],
    );
    assert_eq!(
        effects,
        [
            fork(Process::Diagnosis),
            Effect::StartCommand,
            send(Containerd, SIGTERM),
            Effect::Exit(0)
        ]
    );
}

#[test]
fn containerd_dead_before_ready_is_shown_as_dockerd_is() {
    for settings in [SERVE, COMMAND] {
        for begin in [&[][..], &[Event::Ready]] {
            let settings = Settings {
                post_start: true,
                ..settings
            };
            let end = [
                exited(Containerd, 3),
                exited(PostStart, 0),
                exited(Process::Diagnosis, 0),
                exited(Dockerd, 0),
            ];
            let effects = life(settings, &[begin, &end].concat());
            let shown = [
                fork(Process::Diagnosis),
                send(Dockerd, SIGTERM),
                Effect::Exit(3),
            ];
            assert!(effects.ends_with(&shown), "{effects:?}");
        }
    }
    // dockerd would wait for it, and the shell for dockerd.
    let effects = life(
        SHELL,
        &[
            exited(Containerd, 1),
            killed(Dockerd, SIGTERM),
            exited(Process::Diagnosis, 0),
            exited(Command, 0),
        ],
    );
    assert_eq!(
        effects,
        [
            fork(Process::Diagnosis),
            send(Dockerd, SIGTERM),
            Effect::StartCommand,
            Effect::Exit(0)
        ]
    );
}

#[test]
fn a_daemon_that_cannot_be_started_is_shown_once() {
    for settings in [SERVE, COMMAND, SHELL] {
        let events = [
            Event::NotStarted(Dockerd, 126),
            Event::NotStarted(Containerd, 126),
            Event::Failed(126),
            // Nor can the diagnosis be forked, with too low a limit of processes.
            Event::NotStarted(Process::Diagnosis, 1),
        ];
        let effects = life(settings, &events);
        assert_eq!(effects, [fork(Process::Diagnosis), Effect::Exit(126)]);
    }
}

#[test]
fn containerds_end_ends_serve_and_is_logged_beside_a_command() {
    let events = [
        Event::Ready,
        killed(Containerd, SIGKILL),
        exited(Dockerd, 0),
    ];
    assert_eq!(
        life(SERVE, &events),
        [
            Effect::AnnounceReady,
            send(Dockerd, SIGTERM),
            Effect::Exit(1)
        ]
    );
    let mut machine = begun(COMMAND);
    machine.step(Event::Ready, SECOND);
    let effects = machine.step(killed(Containerd, SIGKILL), SECOND);
    assert!(
        matches!(effects.as_slice(), [Effect::Log(Message { level: Level::Error, text, .. }), Effect::ExplainKill(_)] if text.contains("containerd"))
    );
}

#[test]
fn a_time_out_is_logged_in_wrapdockers_words_and_the_command_runs() {
    let mut machine = begun(COMMAND);
    assert_eq!(machine.step(Event::Tick, SERVE.ready_timeout - SECOND), []);
    let effects = machine.step(Event::Tick, SERVE.ready_timeout);
    assert_eq!(
        effects,
        [
            Effect::Log(Message::plain(
                Level::Error,
                "Timed out trying to connect to internal docker host."
            )),
            Effect::StartCommand
        ]
    );
    // A late answer is announced too, and the command is not started again.
    assert_eq!(
        machine.step(Event::Ready, SERVE.ready_timeout + SECOND),
        [Effect::AnnounceReady]
    );
}

/// Where no child ends by itself, each is killed, stage by stage, within the stop time-out.
#[test]
fn what_does_not_end_is_killed_in_order_and_in_time() {
    let mut machine = begun(SHELL);
    machine.step(Event::Ready, SECOND);
    let began = 10 * SECOND;
    machine.step(Event::Signal(SIGTERM), began);
    let mut sent = Vec::new();
    let mut last = began;
    for (victim, stage) in [
        (Command, "command"),
        (Dockerd, "dockerd"),
        (Containerd, "containerd"),
    ] {
        while sent.last() != Some(&send(victim, SIGKILL)) {
            last = machine.deadline().expect("a stop always has a deadline");
            sent.extend(machine.step(Event::Tick, last));
        }
        assert!(sent.iter().any(
            |effect| matches!(effect, Effect::Log(Message { level: Level::Warn, text, .. }) if text.contains(stage))
        ));
        sent.extend(machine.step(killed(victim, SIGKILL), last));
    }
    assert!(sent.contains(&Effect::KillContainers));
    assert_eq!(sent.last(), Some(&Effect::Exit(137)));
    assert!(last < began + NINE.total);
}

/// SIGKILL does not end a process in an uninterruptible sleep.
#[test]
fn what_cannot_be_killed_is_left_behind_in_time() {
    let mut machine = begun(SERVE);
    machine.step(Event::Ready, SECOND);
    machine.step(Event::Signal(SIGTERM), SECOND);
    let mut effects = Vec::new();
    let mut last = SECOND;
    while !effects.contains(&Effect::Exit(0)) {
        last = machine.deadline().expect("a stop always has a deadline");
        effects = machine.step(Event::Tick, last);
    }
    assert!(
        matches!(&effects[0], Effect::Log(Message { level: Level::Error, text, .. }) if text.contains("dockerd did not end after SIGKILL")),
        "{effects:?}"
    );
    assert!(last < SECOND + NINE.total);
}

const ENDS_DEAF: Settings = Settings {
    ends_deaf: true,
    ..SERVE
};

/// The stop signals must not be sent before the watcher knows which containers to look at.
#[test]
fn dockerd_is_stopped_when_the_watcher_is_ready_or_late() {
    let mut machine = begun(ENDS_DEAF);
    machine.step(Event::Ready, SECOND);
    let effects = machine.step(Event::Signal(SIGTERM), SECOND);
    assert_eq!(effects, [Effect::Fork(Process::Watcher)]);
    let mut late = machine.clone();
    for end in [End::Exited(0), End::Exited(1), End::Signaled(SIGKILL)] {
        let effects = machine
            .clone()
            .step(Event::Ended(Process::Watcher, end), SECOND);
        assert!(effects.ends_with(&[send(Dockerd, SIGTERM)]), "{effects:?}");
    }
    let deadline = late.deadline().expect("a stop always has a deadline");
    assert!(deadline < SECOND + NINE.containers);
    assert_eq!(
        late.step(Event::Tick, deadline),
        [send(Process::Watcher, SIGKILL), send(Dockerd, SIGTERM)]
    );
    assert_eq!(late.step(killed(Process::Watcher, SIGKILL), deadline), []);
    // Nobody is watched for a dockerd that does not run.
    let events = [Event::Ready, exited(Dockerd, 0), exited(Containerd, 0)];
    let effects = life(ENDS_DEAF, &events);
    assert!(!effects.contains(&Effect::Fork(Process::Watcher)));
}

/// What a dead dockerd has left gets its stop signal, and the time until it would have been killed
/// with a dockerd that lives.
#[test]
fn containers_of_a_dead_dockerd_have_their_time() {
    let mut machine = begun(SERVE);
    machine.step(Event::Ready, SECOND);
    let effects = machine.step(killed(Dockerd, SIGKILL), SECOND);
    assert_eq!(effects.last(), Some(&Effect::Fork(Process::Ender)));
    assert_eq!(machine.deadline(), Some(SECOND + NINE.containers));
    let effects = machine.step(Event::Tick, SECOND + NINE.containers);
    assert_eq!(effects, [Effect::KillContainers]);
    let effects = machine.step(exited(Process::Ender, 0), SECOND + NINE.containers);
    assert_eq!(effects, [send(Containerd, SIGTERM)]);

    // In the middle of a stop, too.
    let mut machine = begun(SERVE);
    machine.step(Event::Ready, SECOND);
    machine.step(Event::Signal(SIGTERM), SECOND);
    let mut late = machine.clone();
    let effects = machine.step(killed(Dockerd, SIGKILL), SECOND * 2);
    assert_eq!(effects.last(), Some(&Effect::Fork(Process::Ender)));
    assert_eq!(machine.deadline(), Some(SECOND + NINE.containers));

    // But not where they have had their time already.
    late.step(Event::Tick, SECOND + NINE.containers);
    late.step(Event::Tick, SECOND + NINE.dockerd);
    let effects = late.step(killed(Dockerd, SIGKILL), SECOND + NINE.dockerd);
    assert_eq!(effects, [send(Containerd, SIGTERM)]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let process = || {
        prop_oneof![
            Just(Containerd),
            Just(Dockerd),
            Just(Command),
            Just(Process::PreStart),
            Just(Process::Loader),
            Just(Process::PostStart),
            Just(Process::PreStop),
            Just(Process::Watcher),
            Just(Process::Ender),
            Just(Process::Sweeper),
            Just(Process::Mounter),
            Just(Process::Certificates),
            Just(Process::Delegation),
            Just(Process::Relay),
            Just(Process::LogReader),
            Just(Process::Diagnosis),
        ]
    };
    let end = prop_oneof![
        any::<u8>().prop_map(End::Exited),
        (1..65).prop_map(End::Signaled),
        Just(End::Unseen)
    ];
    prop_oneof![
        prop_oneof![Just(SIGTERM), Just(SIGINT), Just(SIGHUP), Just(SIGUSR1)]
            .prop_map(Event::Signal),
        (process(), end).prop_map(|(process, end)| Event::Ended(process, end)),
        Just(Event::Ready),
        (process(), any::<u8>()).prop_map(|(process, status)| Event::NotStarted(process, status)),
        any::<u8>().prop_map(Event::Failed),
        Just(Event::Tick),
    ]
}

/// Whether an event can happen: a child ends once, and only after it was started.
fn possible(machine: &Machine, event: Event) -> bool {
    match event {
        Event::Ended(process, _) => machine.runs(process),
        Event::NotStarted(process, _) => machine.runs(process),
        Event::Signal(_) | Event::Ready | Event::Failed(_) | Event::Tick => true,
        Event::Begin => false,
    }
}

proptest! {
    /// Whatever happens in whatever order: dockerd and containerd get SIGTERM at most
    /// once, the command is started at most once, and when every child has ended after
    /// a stop began, the machine ends, once.
    #[test]
    fn every_life_ends_in_order(
        command in any::<bool>(),
        terminal in any::<bool>(),
        containerd in any::<bool>(),
        restarts in 0_u32..4,
        loader in prop_oneof![Just(Need::None), Just(Need::Wanted), Just(Need::Required)],
        hooks in any::<[bool; 3]>(),
        others in any::<[bool; 5]>(),
        events in proptest::collection::vec((any_event(), 0_u64..5_000), 0..40),
    ) {
        let [pre_start, post_start, pre_stop] = hooks;
        let [certificates, delegation, relay, log_file, ends_deaf] = others;
        let mut machine = Machine::new(Settings {
            command, terminal, containerd, restarts, loader, pre_start, post_start, pre_stop,
            certificates, delegation, relay, log_file, ends_deaf, ..SERVE
        });
        let mut effects = machine.step(Event::Begin, Duration::ZERO);
        let mut now = Duration::ZERO;
        for (event, wait) in events {
            now += Duration::from_millis(wait);
            if effects.iter().any(|effect| matches!(effect, Effect::Exit(_))) {
                break;
            }
            if possible(&machine, event) {
                effects.extend(machine.step(event, now));
            }
        }
        // Then it is stopped by signal, and no child ends until it is killed.
        for signal in [SIGTERM, SIGTERM] {
            if !effects.iter().any(|effect| matches!(effect, Effect::Exit(_))) {
                effects.extend(machine.step(Event::Signal(signal), now));
            }
        }
        for _ in 0..60 {
            if effects.iter().any(|effect| matches!(effect, Effect::Exit(_))) {
                break;
            }
            let more = match effects.last() {
                Some(Effect::Send(victim, SIGKILL)) if machine.runs(*victim) => {
                    machine.step(killed(*victim, SIGKILL), now)
                }
                _ => {
                    now = now.max(machine.deadline().unwrap_or(now));
                    machine.step(Event::Tick, now)
                }
            };
            effects.extend(more);
        }
        let count = |wanted: &Effect| effects.iter().filter(|effect| *effect == wanted).count();
        prop_assert!(count(&send(Dockerd, SIGTERM)) <= 1);
        prop_assert!(count(&send(Containerd, SIGTERM)) <= 1);
        prop_assert!(count(&Effect::StartCommand) <= 1);
        prop_assert!(count(&Effect::AnnounceReady) <= 1);
        for helper in [Process::Certificates, Process::Delegation, Process::PreStart, Process::Loader, Process::PostStart, Process::PreStop, Process::Watcher, Process::Ender] {
            prop_assert!(count(&Effect::Fork(helper)) <= 1, "{:?}", effects);
        }
        // Pre-stop hooks run only after docker was announced as ready.
        prop_assert!(count(&Effect::Fork(Process::PreStop)) <= count(&Effect::AnnounceReady), "{:?}", effects);
        let exits = effects.iter().filter(|effect| matches!(effect, Effect::Exit(_))).count();
        prop_assert_eq!(exits, 1, "{:?}", effects);
    }
}

proptest! {
    /// However short the stop time-out is, and however late its first tick: nothing is forced
    /// before it has had a time from its own signal on, nor given up before it has had one from
    /// SIGKILL on, and one step is taken at a time.
    #[test]
    fn every_stage_has_a_time_from_its_own_signal_on(
        total in 1_u64..20_000,
        late in 0_u64..60_000,
        pre_stop in any::<bool>(),
        ends in proptest::collection::vec(any::<bool>(), 30),
    ) {
        let total = Duration::from_millis(total);
        let mut machine = begun(Settings {
            pre_stop,
            stop: StopBudget::new(total, 0, pre_stop),
            ..COMMAND
        });
        machine.step(Event::Ready, SECOND);
        machine.step(Event::Signal(SIGTERM), SECOND);
        let (mut signalled, mut killed_last) = (SECOND, None);
        let mut now = SECOND + Duration::from_millis(late);
        for ends in ends {
            let effects = match killed_last.filter(|_| ends) {
                Some(victim) => machine.step(killed(victim, SIGKILL), now),
                None => {
                    now = now.max(machine.deadline().expect("a stop always has a deadline"));
                    let least = match killed_last {
                        Some(_) => LEAST_KILLED,
                        None => LEAST,
                    };
                    prop_assert!(now >= signalled + least, "{machine:?}");
                    machine.step(Event::Tick, now)
                }
            };
            if effects.iter().any(|effect| matches!(effect, Effect::Exit(_))) {
                let stages = if pre_stop { 4 } else { 3 };
                let most = SECOND + total + Duration::from_millis(late) + (2 * LEAST + LEAST_KILLED) * stages;
                prop_assert!(now <= most, "{now:?}");
                return Ok(());
            }
            let forced: Vec<&Effect> = effects
                .iter()
                .filter(|effect| matches!(effect, Effect::Send(..) | Effect::KillContainers | Effect::Fork(_)))
                .collect();
            prop_assert!(forced.len() == 1, "{effects:?}");
            signalled = now;
            killed_last = match forced[..] {
                [Effect::Send(victim, SIGKILL)] => Some(*victim),
                _ => None,
            };
        }
        prop_assert!(false, "the stop does not end");
    }
}

#[test]
fn a_child_that_somebody_kills_in_a_stop_is_named() {
    let named = |events: &[Event]| {
        let mut machine = Machine::new(PROVISIONED);
        machine.step(Event::Begin, SECOND);
        let start = [
            exited(PreStart, 0),
            Event::Ready,
            exited(Loader, 0),
            exited(PostStart, 0),
            Event::Signal(SIGTERM),
        ];
        let mut said = Vec::new();
        for event in start.iter().chain(events) {
            for effect in machine.step(*event, SECOND) {
                if let Effect::Log(Message { text, .. }) = effect {
                    said.push(text);
                }
            }
        }
        said
    };
    let command = exited(Command, 0);
    for (events, expected) in [
        (
            &[command, killed(PreStop, SIGKILL)][..],
            Some("the pre-stop hook runner was ended by SIGKILL"),
        ),
        (
            &[command, killed(PreStop, SIGTERM)],
            Some("the pre-stop hook runner was ended by SIGTERM"),
        ),
        (
            &[command, killed(Containerd, SIGKILL)],
            Some("containerd was ended by SIGKILL"),
        ),
        (
            &[command, exited(PreStop, 0), killed(Dockerd, SIGKILL)],
            Some("dockerd was ended by SIGKILL"),
        ),
        // By the signal that it got.
        (
            &[command, exited(PreStop, 0), killed(Dockerd, SIGTERM)],
            None,
        ),
        (&[killed(Command, SIGKILL)], None),
    ] {
        let said = named(events);
        let first = said.first().map(String::as_str);
        assert_eq!(first.is_some(), expected.is_some(), "{events:?}: {said:?}");
        assert!(
            first
                .unwrap_or_default()
                .starts_with(expected.unwrap_or_default()),
            "{events:?}: {said:?}"
        );
    }
}

const EPHEMERAL: Settings = Settings {
    sweeps: true,
    ..COMMAND
};

#[test]
fn the_data_root_is_emptied_when_all_daemons_have_ended() {
    let events = [
        Event::Ready,
        exited(Process::Command, 3),
        exited(Process::Dockerd, 0),
        exited(Process::Containerd, 0),
    ];
    let effects = life(EPHEMERAL, &events);
    assert_eq!(effects.last(), Some(&Effect::Fork(Process::Sweeper)));
    let swept = [&events[..], &[exited(Process::Sweeper, 0)]].concat();
    assert_eq!(life(EPHEMERAL, &swept).last(), Some(&Effect::Exit(3)));
    assert!(!life(COMMAND, &events).contains(&Effect::Fork(Process::Sweeper)));
}

#[test]
fn emptying_may_take_long_until_a_signal_asks_for_the_end() {
    let mut machine = begun(EPHEMERAL);
    for event in [
        Event::Ready,
        exited(Process::Command, 0),
        exited(Process::Dockerd, 0),
        exited(Process::Containerd, 0),
    ] {
        machine.step(event, SECOND);
    }
    let patient = machine.deadline().expect("a deadline");
    assert!(patient >= NINE.sweep);
    let later = SECOND * 100;
    assert_eq!(machine.step(Event::Signal(libc::SIGTERM), later), []);
    let hasty = machine.deadline().expect("a deadline");
    assert!(hasty > later && hasty < later + NINE.total);
    let effects = machine.step(Event::Tick, hasty);
    assert!(effects.contains(&send(Process::Sweeper, libc::SIGKILL)));
    let effects = machine.step(killed(Process::Sweeper, libc::SIGKILL), hasty);
    assert_eq!(effects, [Effect::Exit(0)]);
}

#[test]
fn a_stop_by_signal_gives_the_sweeper_no_more_than_the_stop_time_out() {
    let mut machine = begun(Settings {
        sweeps: true,
        ..SERVE
    });
    for event in [
        Event::Ready,
        Event::Signal(libc::SIGTERM),
        exited(Process::Dockerd, 0),
        exited(Process::Containerd, 0),
    ] {
        machine.step(event, SECOND);
    }
    let deadline = machine.deadline().expect("a deadline");
    assert!(deadline < SECOND + NINE.total);
}

#[test]
fn the_daemons_wait_for_the_image() {
    let with = |data_file| Settings { data_file, ..SERVE };
    let mounted = |settings, end| {
        let mut machine = Machine::new(settings);
        assert_eq!(
            machine.step(Event::Begin, SECOND),
            [Effect::Fork(Process::Mounter)]
        );
        assert_eq!(machine.deadline(), Some(SECOND + SERVE.ready_timeout));
        machine.step(Event::Ended(Process::Mounter, end), SECOND)
    };
    for image in [Need::Wanted, Need::Required] {
        let effects = mounted(with(image), End::Exited(0));
        assert_eq!(effects, [Effect::StartDaemons]);
    }
    let effects = mounted(with(Need::Required), End::Exited(1));
    assert_eq!(effects, [fork(Process::Diagnosis)]);
    let effects = mounted(with(Need::Wanted), End::Signaled(SIGKILL));
    assert!(
        matches!(
            &effects[..],
            [
                Effect::Log(Message {
                    level: Level::Warn,
                    ..
                }),
                Effect::ExplainKill(_),
                Effect::GoWithoutDataFile,
                Effect::StartDaemons
            ]
        ),
        "{effects:?}"
    );
}

#[test]
fn a_stop_ends_the_data_root_mounter() {
    let mut machine = Machine::new(Settings {
        data_file: Need::Required,
        ..SERVE
    });
    machine.step(Event::Begin, SECOND);
    let effects = machine.step(Event::Signal(SIGTERM), SECOND);
    assert_eq!(effects, [send(Process::Mounter, SIGTERM)]);
    let late = machine.deadline().expect("a deadline");
    let effects = machine.step(Event::Tick, late);
    assert!(effects.contains(&send(Process::Mounter, SIGKILL)));
    let effects = machine.step(killed(Process::Mounter, SIGKILL), late);
    assert_eq!(effects, [Effect::Exit(0)]);
}

#[test]
fn a_data_root_mounter_that_hangs_is_ended_at_the_time_out() {
    let mut machine = Machine::new(Settings {
        data_file: Need::Required,
        ..COMMAND
    });
    machine.step(Event::Begin, SECOND);
    let late = SECOND + COMMAND.ready_timeout;
    let effects = machine.step(Event::Tick, late);
    assert!(
        effects.contains(&send(Process::Mounter, SIGTERM)),
        "{effects:?}"
    );
    let effects = machine.step(killed(Process::Mounter, SIGTERM), late);
    assert_eq!(effects, [Effect::Exit(FAILURE)]);
}

/// What else sends SIGKILL than the kernel, which does it for want of memory, does not hide it.
#[test]
fn a_sigkill_from_elsewhere_is_explained_behind_the_message() {
    let ready = &[Event::Ready][..];
    let stopping = &[Event::Ready, Event::Signal(SIGTERM)];
    for (settings, before, event, expected) in [
        (SERVE, &[][..], killed(Dockerd, SIGKILL), Some(Level::Error)),
        (SERVE, ready, killed(Dockerd, SIGKILL), Some(Level::Error)),
        (
            SERVE,
            ready,
            killed(Containerd, SIGKILL),
            Some(Level::Error),
        ),
        (COMMAND, ready, killed(Dockerd, SIGKILL), Some(Level::Error)),
        (
            COMMAND,
            ready,
            killed(Containerd, SIGKILL),
            Some(Level::Error),
        ),
        (
            RESTARTED,
            ready,
            killed(Dockerd, SIGKILL),
            Some(Level::Warn),
        ),
        (
            RESTARTED,
            ready,
            killed(Containerd, SIGKILL),
            Some(Level::Warn),
        ),
        (
            SERVE,
            ready,
            killed(Process::Forwarder, SIGKILL),
            Some(Level::Error),
        ),
        (SERVE, ready, killed(Dockerd, SIGTERM), None),
        (SERVE, ready, exited(Dockerd, 137), None),
        (COMMAND, ready, killed(Command, SIGKILL), None),
        // This process has sent SIGTERM only.
        (
            SERVE,
            stopping,
            killed(Dockerd, SIGKILL),
            Some(Level::Error),
        ),
        (SERVE, stopping, killed(Dockerd, SIGTERM), None),
    ] {
        let mut machine = begun(settings);
        for event in before {
            machine.step(*event, SECOND);
        }
        let effects = machine.step(event, SECOND);
        let place = effects
            .iter()
            .position(|effect| matches!(effect, Effect::ExplainKill(_)));
        let found = place.map(|place| &effects[..=place]);
        match (found, expected) {
            (None, None) => {}
            (Some([Effect::Log(message), Effect::ExplainKill(level)]), Some(expected)) => {
                assert_eq!((*level, message.level), (expected, expected), "{event:?}");
            }
            _ => panic!("{event:?}: {effects:?}"),
        }
    }
}

const RESTARTED: Settings = Settings {
    restarts: 2,
    ..SERVE
};

#[test]
fn a_daemon_that_fails_is_restarted_after_a_pause() {
    for process in [Dockerd, Containerd] {
        let mut machine = begun(RESTARTED);
        machine.step(Event::Ready, SECOND);
        let effects = machine.step(killed(process, SIGKILL), SECOND);
        assert!(
            matches!(&effects[..], [Effect::Log(Message { level: Level::Warn, text, .. }), Effect::ExplainKill(_)] if text.contains("restarting it in 0.1 s")),
            "{effects:?}"
        );
        let due = machine.deadline().expect("a deadline");
        assert_eq!(due, SECOND + FIRST_PAUSE);
        assert_eq!(machine.step(Event::Tick, SECOND), []);
        assert_eq!(machine.step(Event::Tick, due), [Effect::Restart(process)]);
        assert_eq!(machine.deadline(), None);
        if process == Dockerd {
            // dockerd has no handlers yet.
            assert_eq!(machine.step(Event::Signal(SIGHUP), due), []);
            let effects = machine.step(Event::Ready, due);
            assert!(
                matches!(
                    &effects[..],
                    [
                        Effect::Log(Message {
                            level: Level::Info,
                            ..
                        }),
                        Effect::Send(Dockerd, SIGHUP)
                    ]
                ),
                "{effects:?}"
            );
        }
    }
}

#[test]
fn failures_in_a_row_are_counted() {
    let fail = |machine: &mut Machine, now| {
        let effects = machine.step(killed(Dockerd, SIGKILL), now);
        machine
            .deadline()
            .map(|due| {
                assert!(
                    machine
                        .step(Event::Tick, due)
                        .contains(&Effect::Restart(Dockerd))
                );
                due.saturating_sub(now)
            })
            .ok_or(effects)
    };
    let mut machine = begun(RESTARTED);
    machine.step(Event::Ready, SECOND);
    assert_eq!(fail(&mut machine, SECOND), Ok(FIRST_PAUSE));
    assert_eq!(fail(&mut machine, SECOND * 2), Ok(FIRST_PAUSE * 2));
    // After a minute of life the count begins anew.
    assert_eq!(fail(&mut machine, SECOND * 63), Ok(FIRST_PAUSE));
    assert_eq!(fail(&mut machine, SECOND * 64), Ok(FIRST_PAUSE * 2));
    let effects = machine.step(killed(Dockerd, SIGKILL), SECOND * 65);
    assert_eq!(effects.first(), Some(&Effect::CloseSockets));
    assert_eq!(effects.last(), Some(&Effect::Fork(Process::Ender)));
    assert_eq!(
        machine.step(exited(Process::Ender, 0), SECOND * 65),
        [send(Containerd, SIGTERM)]
    );
    assert_eq!(
        machine.step(exited(Containerd, 0), SECOND * 65),
        [Effect::Exit(137)]
    );
}

#[test]
fn a_dockerd_that_exits_before_its_first_answer_is_not_restarted() {
    let mut machine = begun(RESTARTED);
    let effects = machine.step(exited(Dockerd, 1), SECOND);
    assert!(effects.contains(&fork(Process::Diagnosis)), "{effects:?}");
    // One that a signal ended is.
    let mut machine = begun(RESTARTED);
    machine.step(killed(Dockerd, SIGKILL), SECOND);
    assert_eq!(machine.deadline(), Some(SECOND + FIRST_PAUSE));
    // One that exits with status 0 is not: this was wanted.
    let mut machine = begun(RESTARTED);
    machine.step(Event::Ready, SECOND);
    let effects = machine.step(exited(Dockerd, 0), SECOND);
    assert_eq!(effects.last(), Some(&send(Containerd, SIGTERM)));
}

#[test]
fn a_stop_cancels_a_restart() {
    let mut machine = begun(RESTARTED);
    machine.step(Event::Ready, SECOND);
    machine.step(killed(Dockerd, SIGKILL), SECOND);
    // The containers that it has left get their stop signal all the same.
    let effects = machine.step(Event::Signal(SIGTERM), SECOND);
    assert!(effects.ends_with(&[fork(Process::Ender)]), "{effects:?}");
    let late = SECOND + FIRST_PAUSE * 2;
    assert_eq!(machine.step(Event::Tick, late), []);
    let effects = machine.step(exited(Process::Ender, 0), late);
    assert_eq!(effects, [send(Containerd, SIGTERM)]);
    assert_eq!(machine.step(exited(Containerd, 0), late), [Effect::Exit(0)]);
}

#[test]
fn a_companion_that_is_killed_is_restarted_unless_that_is_at_once() {
    const FORWARDING: Settings = Settings {
        forwarder: true,
        ..SERVE
    };
    const GROWING: Settings = Settings {
        grower: true,
        ..SERVE
    };
    for (settings, process) in [(FORWARDING, Process::Forwarder), (GROWING, Process::Grower)] {
        let fork = Effect::Fork(process);
        let killed_at = |now| {
            let mut machine = Machine::new(settings);
            let effects = machine.step(Event::Begin, SECOND);
            assert_eq!(effects, [Effect::StartDaemons, fork.clone()]);
            machine.step(killed(process, SIGKILL), now)
        };
        assert_eq!(killed_at(SECOND * 3).last(), Some(&fork));
        let effects = killed_at(SECOND);
        assert!(
            matches!(
                &effects[..],
                [
                    Effect::Log(Message {
                        level: Level::Error,
                        ..
                    }),
                    Effect::ExplainKill(_)
                ]
            ),
            "{effects:?}"
        );
        // One that exits has logged the reason, and a stop needs neither.
        assert_eq!(life(SERVE, &[exited(process, 1)]), []);
        let stopping = [Event::Signal(SIGTERM), killed(process, SIGKILL)];
        assert_eq!(life(SERVE, &stopping), [send(Dockerd, SIGTERM)]);
    }
}

/// Without its image there is nothing to grow.
#[test]
fn a_start_that_goes_on_without_an_image_has_no_grower() {
    const GROWING: Settings = Settings {
        data_file: Need::Wanted,
        grower: true,
        ..SERVE
    };
    for (status, expected) in [
        (
            0,
            &[Effect::StartDaemons, Effect::Fork(Process::Grower)][..],
        ),
        (1, &[Effect::GoWithoutDataFile, Effect::StartDaemons]),
    ] {
        let mut machine = Machine::new(GROWING);
        let effects = machine.step(Event::Begin, SECOND);
        assert_eq!(effects, [Effect::Fork(Mounter)]);
        let mut effects = machine.step(exited(Mounter, status), SECOND);
        effects.retain(|effect| !matches!(effect, Effect::Log(_)));
        assert_eq!(effects, expected);
    }
}

#[test]
fn a_port_forwarder_that_is_not_restarted_leaves_no_open_port() {
    const FORWARDING: Settings = Settings {
        port_forwarder: true,
        ..SERVE
    };
    let fork = Effect::Fork(Process::PortForwarder);
    let ended_at = |now, event| {
        let mut machine = Machine::new(FORWARDING);
        let effects = machine.step(Event::Begin, SECOND);
        assert_eq!(effects, [Effect::StartDaemons, fork.clone()]);
        machine.step(event, now)
    };
    let killed = killed(Process::PortForwarder, SIGKILL);
    assert_eq!(ended_at(SECOND * 3, killed).last(), Some(&fork));
    assert_eq!(ended_at(SECOND, killed).last(), Some(&Effect::ClosePort));
    let exited = exited(Process::PortForwarder, 1);
    assert_eq!(ended_at(SECOND * 3, exited), [Effect::ClosePort]);
}

const PROVISIONED: Settings = Settings {
    loader: Need::Wanted,
    pre_start: true,
    post_start: true,
    pre_stop: true,
    stop: StopBudget {
        command: Duration::from_secs(2),
        hook: Duration::from_secs(3),
        ..NINE
    },
    ..COMMAND
};

const fn fork(process: Process) -> Effect {
    Effect::Fork(process)
}

/// Feeds events after [`Event::Begin`], and returns the effects, without the log messages.
fn whole_life(settings: Settings, events: &[Event]) -> Vec<Effect> {
    let mut machine = Machine::new(settings);
    let begin = [Event::Begin];
    let effects = begin
        .iter()
        .chain(events)
        .flat_map(|event| machine.step(*event, SECOND));
    effects
        .filter(|effect| !matches!(effect, Effect::Log(_)))
        .collect()
}

#[test]
fn images_and_hooks_have_their_order() {
    let events = [
        exited(Mounter, 0),
        exited(PreStart, 0),
        Event::Ready,
        exited(Loader, 0),
        exited(PostStart, 0),
        exited(Command, 3),
        exited(PreStop, 0),
        exited(Dockerd, 0),
        exited(Containerd, 0),
    ];
    let settings = Settings {
        data_file: Need::Wanted,
        ..PROVISIONED
    };
    assert_eq!(
        whole_life(settings, &events),
        [
            fork(Mounter),
            fork(PreStart),
            Effect::StartDaemons,
            fork(Loader),
            fork(PostStart),
            Effect::AnnounceReady,
            Effect::StartCommand,
            fork(PreStop),
            send(Dockerd, SIGTERM),
            send(Containerd, SIGTERM),
            Effect::Exit(3),
        ]
    );
}

#[test]
fn a_pre_start_hook_that_fails_ends_the_start_with_its_status() {
    assert_eq!(
        whole_life(
            PROVISIONED,
            &[exited(PreStart, 7), exited(Process::LogReader, 0)]
        ),
        [fork(PreStart), fork(Process::LogReader), Effect::Exit(7)]
    );
    let no_file = Settings {
        log_file: false,
        ..PROVISIONED
    };
    assert_eq!(
        whole_life(no_file, &[exited(PreStart, 7)]),
        [fork(PreStart), Effect::Exit(7)]
    );
    // One that a signal ends could not say why.
    assert_eq!(
        whole_life(
            no_file,
            &[killed(PreStart, SIGKILL), exited(Process::Diagnosis, 0)]
        ),
        [
            fork(PreStart),
            Effect::ExplainKill(Level::Error),
            fork(Process::Diagnosis),
            Effect::Exit(137)
        ]
    );
    // The start does not depend on the image loader and on post-start hooks.
    let events = [
        exited(PreStart, 0),
        Event::Ready,
        exited(Loader, 1),
        exited(PostStart, 1),
    ];
    let effects = whole_life(PROVISIONED, &events);
    assert_eq!(effects.last(), Some(&Effect::StartCommand));
}

#[test]
fn a_required_image_that_cannot_be_loaded_ends_the_start() {
    let settings = Settings {
        loader: Need::Required,
        ..PROVISIONED
    };
    for end in [exited(Loader, 1), killed(Loader, SIGKILL)] {
        let shown = exited(Process::Diagnosis, 0);
        let effects = whole_life(settings, &[exited(PreStart, 0), Event::Ready, end, shown]);
        let stopped = [fork(Process::Diagnosis), send(Dockerd, SIGTERM)];
        assert!(effects.ends_with(&stopped), "{effects:?}");
        assert!(!effects.contains(&Effect::AnnounceReady));
        // Docker was never ready, so the pre-stop hooks do not run.
        assert!(!effects.contains(&fork(PreStop)));
    }
}

#[test]
fn a_dockerd_that_ends_while_images_are_loaded_was_not_ready() {
    let begin = [
        exited(PreStart, 0),
        Event::Ready,
        killed(Dockerd, SIGKILL),
        exited(Process::Diagnosis, 0),
    ];
    let effects = whole_life(PROVISIONED, &begin);
    assert!(effects.contains(&fork(Process::Diagnosis)), "{effects:?}");
    assert_eq!(effects.last(), Some(&send(Loader, SIGTERM)));
    // A shell on a terminal starts all the same, for the user to look for the cause.
    let settings = Settings {
        terminal: true,
        ..PROVISIONED
    };
    let effects = whole_life(settings, &[&begin[..], &[exited(Loader, 1)]].concat());
    assert_eq!(effects.last(), Some(&Effect::StartCommand));
}

#[test]
fn the_rest_of_a_start_waits_for_the_next_dockerd() {
    let settings = Settings {
        restarts: 1,
        ..PROVISIONED
    };
    let mut machine = Machine::new(settings);
    let mut step = |event, now| machine.step(event, now);
    step(Event::Begin, SECOND);
    step(exited(PreStart, 0), SECOND);
    assert_eq!(step(Event::Ready, SECOND), [fork(Loader)]);
    step(killed(Dockerd, SIGKILL), SECOND);
    assert_eq!(step(exited(Loader, 1), SECOND), []);
    let later = SECOND * 2;
    assert_eq!(step(Event::Tick, later), [Effect::Restart(Dockerd)]);
    assert_eq!(step(Event::Ready, later), [fork(PostStart)]);
}

#[test]
fn a_dockerd_that_restarts_while_images_are_loaded_has_the_whole_time_out() {
    let settings = Settings {
        restarts: 1,
        ..PROVISIONED
    };
    let mut machine = Machine::new(settings);
    for event in [
        Event::Begin,
        exited(PreStart, 0),
        Event::Ready,
        killed(Dockerd, SIGKILL),
    ] {
        machine.step(event, SECOND);
    }
    let due = SECOND + FIRST_PAUSE;
    assert_eq!(machine.step(Event::Tick, due), [Effect::Restart(Dockerd)]);
    let late = due + settings.ready_timeout;
    assert_eq!(machine.deadline(), Some(late));
    let effects = machine.step(Event::Tick, late);
    assert_eq!(effects.last(), Some(&Effect::StartCommand));
}

#[test]
fn a_helper_that_hangs_leaves_the_daemons_their_part_of_a_stop() {
    let begin = [exited(PreStart, 0), Event::Ready, Event::Signal(SIGTERM)];
    let mut machine = Machine::new(PROVISIONED);
    machine.step(Event::Begin, SECOND);
    for event in begin {
        machine.step(event, SECOND);
    }
    let mut effects = Vec::new();
    for _ in 0..2 {
        let late = machine.deadline().expect("a deadline");
        assert!(late <= SECOND + NINE.total / 2, "{late:?}");
        effects.extend(machine.step(Event::Tick, late));
    }
    assert!(effects.contains(&send(Loader, SIGKILL)), "{effects:?}");
    assert_eq!(effects.last(), Some(&send(Dockerd, SIGTERM)));
}

#[test]
fn the_sockets_are_closed_when_no_dockerd_will_be_started() {
    let mut machine = begun(RESTARTED);
    machine.step(Event::Ready, SECOND);
    machine.step(killed(Dockerd, SIGKILL), SECOND);
    let effects = machine.step(Event::Signal(SIGTERM), SECOND);
    assert_eq!(effects, [Effect::CloseSockets, fork(Process::Ender)]);
    let mut machine = begun(RESTARTED);
    machine.step(Event::Ready, SECOND);
    let effects = machine.step(exited(Dockerd, 0), SECOND);
    assert_eq!(effects.first(), Some(&Effect::CloseSockets));
}

#[test]
fn images_are_loaded_after_a_late_answer_too() {
    let mut machine = Machine::new(PROVISIONED);
    machine.step(Event::Begin, SECOND);
    let begun = SECOND * 50;
    // Hooks have their own time-out.
    assert_eq!(machine.deadline(), None);
    machine.step(exited(PreStart, 0), begun);
    let late = begun + PROVISIONED.ready_timeout;
    assert_eq!(machine.deadline(), Some(late));
    let effects = machine.step(Event::Tick, late);
    assert_eq!(effects.last(), Some(&Effect::StartCommand));
    assert_eq!(machine.step(Event::Ready, late), [fork(Loader)]);
    assert_eq!(machine.step(exited(Loader, 0), late), [fork(PostStart)]);
    assert_eq!(
        machine.step(exited(PostStart, 0), late),
        [Effect::AnnounceReady]
    );
}

#[test]
fn a_stop_ends_the_helper_of_a_start_that_runs() {
    let stop = Event::Signal(SIGTERM);
    for (events, running) in [
        (&[][..], PreStart),
        (&[exited(PreStart, 0), Event::Ready], Loader),
        (
            &[exited(PreStart, 0), Event::Ready, exited(Loader, 0)],
            PostStart,
        ),
    ] {
        let effects = whole_life(PROVISIONED, &[events, &[stop]].concat());
        assert_eq!(effects.last(), Some(&send(running, SIGTERM)));
    }
}

#[test]
fn pre_stop_hooks_have_their_part_of_the_time() {
    let mut machine = Machine::new(PROVISIONED);
    machine.step(Event::Begin, SECOND);
    for event in [
        exited(PreStart, 0),
        Event::Ready,
        exited(Loader, 0),
        exited(PostStart, 0),
        Event::Signal(SIGTERM),
    ] {
        machine.step(event, SECOND);
    }
    let commands = SECOND + PROVISIONED.stop.command;
    assert_eq!(machine.deadline(), Some(commands));
    let effects = machine.step(Event::Tick, commands);
    assert_eq!(effects.last(), Some(&send(Command, SIGKILL)));
    let effects = machine.step(killed(Command, SIGKILL), commands);
    assert_eq!(effects, [fork(PreStop)]);
    // First the hook, then its runner.
    let most = SECOND + PROVISIONED.stop.hook;
    assert_eq!(machine.deadline(), Some(most));
    let effects = machine.step(Event::Tick, most);
    assert_eq!(effects.last(), Some(&send(PreStop, SIGTERM)));
    let all = SECOND + PROVISIONED.stop.hooks;
    assert_eq!(machine.deadline(), Some(all));
    let effects = machine.step(Event::Tick, all);
    assert_eq!(effects.last(), Some(&send(PreStop, SIGKILL)));
    let effects = machine.step(killed(PreStop, SIGKILL), all);
    assert_eq!(effects, [send(Dockerd, SIGTERM)]);
}

const PREPARED: Settings = Settings {
    data_file: Need::Required,
    certificates: true,
    delegation: true,
    pre_start: true,
    ..SERVE
};

#[test]
fn work_that_may_take_long_before_the_daemons_is_a_child_with_a_deadline() {
    let before = [
        (Mounter, Some(SECOND + PREPARED.ready_timeout)),
        (Process::Certificates, Some(SECOND + PREPARED.ready_timeout)),
        (Process::Delegation, Some(SECOND + PREPARED.ready_timeout)),
        (PreStart, None),
    ];
    let mut machine = Machine::new(PREPARED);
    let mut effects = machine.step(Event::Begin, SECOND);
    for (process, deadline) in before {
        assert_eq!(effects, [fork(process)]);
        assert_eq!(machine.deadline(), deadline);
        // A stop ends it at once, and the container with it.
        let mut stopped = machine.clone();
        let stop = stopped.step(Event::Signal(SIGTERM), SECOND);
        assert_eq!(stop, [send(process, SIGTERM)]);
        let end = stopped.step(killed(process, SIGTERM), SECOND);
        assert_eq!(end, [Effect::Exit(0)]);
        // One that hangs is killed, and left to the kernel if that does not end it.
        let mut hangs = machine.clone();
        hangs.step(Event::Signal(SIGTERM), SECOND);
        let late = hangs.deadline().expect("a deadline");
        let kill = hangs.step(Event::Tick, late);
        assert_eq!(kill.last(), Some(&send(process, SIGKILL)));
        let abandoned = hangs.deadline().expect("a deadline");
        let end = hangs.step(Event::Tick, abandoned);
        assert_eq!(end.last(), Some(&Effect::Exit(0)));
        assert!(abandoned < SECOND + NINE.total);
        effects = machine.step(exited(process, 0), SECOND);
    }
    assert_eq!(effects, [Effect::StartDaemons]);
}

/// dockerd ends where the bridge is missing that it is told to use.
#[test]
fn without_its_bridge_there_is_no_start() {
    let settings = Settings {
        joiner: true,
        ..SERVE
    };
    for (status, expected) in [
        (0, &[Effect::StartDaemons][..]),
        (1, &[fork(Process::Diagnosis), Effect::Exit(FAILURE)]),
    ] {
        let events = [
            exited(Process::Joiner, status),
            exited(Process::Diagnosis, 0),
        ];
        let effects = whole_life(settings, &events);
        assert_eq!(effects, [&[fork(Process::Joiner)], expected].concat());
    }
}

#[test]
fn without_certificates_there_is_no_start_and_without_delegation_there_is() {
    let settings = Settings {
        certificates: true,
        delegation: true,
        ..SERVE
    };
    let events = [
        exited(Process::Certificates, 1),
        exited(Process::Diagnosis, 0),
    ];
    assert_eq!(
        whole_life(settings, &events),
        [
            fork(Process::Certificates),
            fork(Process::Diagnosis),
            Effect::Exit(FAILURE)
        ]
    );
    let events = [
        exited(Process::Certificates, 0),
        exited(Process::Delegation, 1),
    ];
    assert_eq!(
        whole_life(settings, &events).last(),
        Some(&Effect::StartDaemons)
    );
}

#[test]
fn a_diagnosis_that_hangs_is_not_waited_for() {
    for settings in [SERVE, SHELL] {
        let mut machine = begun(settings);
        machine.step(exited(Dockerd, 1), SECOND);
        let late = SECOND + DIAGNOSIS;
        assert_eq!(machine.deadline(), Some(late));
        let effects = machine.step(Event::Tick, late);
        let next = match settings.terminal {
            true => Effect::StartCommand,
            false => send(Containerd, SIGTERM),
        };
        assert_eq!(effects, [send(Process::Diagnosis, SIGKILL), next]);
        // A signal that asks for the end does not wait for it either.
        let mut machine = begun(settings);
        machine.step(exited(Dockerd, 1), SECOND);
        let effects = machine.step(Event::Signal(SIGTERM), SECOND);
        assert_eq!(
            effects,
            [send(Process::Diagnosis, SIGKILL), send(Containerd, SIGTERM)]
        );
    }
}

#[test]
fn what_ends_with_dockerd_does_not_hide_the_diagnosis() {
    let strict = Settings {
        loader: Need::Required,
        ..SERVE
    };
    let mut machine = begun(strict);
    assert_eq!(machine.step(Event::Ready, SECOND), [fork(Loader)]);
    let effects = machine.step(exited(Dockerd, 1), SECOND);
    assert_eq!(effects.last(), Some(&fork(Process::Diagnosis)));
    let killed_diagnosis = send(Process::Diagnosis, SIGKILL);
    for process in [Loader, Containerd] {
        let effects = machine.step(exited(process, 1), SECOND);
        assert!(!effects.contains(&killed_diagnosis), "{effects:?}");
    }
    let effects = machine.step(exited(Process::Diagnosis, 0), SECOND);
    assert_eq!(effects.last(), Some(&fork(Process::Ender)), "{effects:?}");
    let effects = machine.step(exited(Process::Ender, 0), SECOND);
    assert_eq!(effects, [Effect::Exit(1)]);
}

#[test]
fn the_log_relay_is_restarted_whatever_ended_it() {
    let relayed = Settings {
        relay: true,
        ..SERVE
    };
    let mut machine = Machine::new(relayed);
    let effects = machine.step(Event::Begin, SECOND);
    assert_eq!(effects, [Effect::StartDaemons, fork(Process::Relay)]);
    machine.step(Event::Ready, SECOND);
    // Late in its life and at once after its start, in a stop too: more lines will come.
    let later = SECOND * 10;
    let effects = machine.step(killed(Process::Relay, SIGKILL), later);
    assert_eq!(effects.last(), Some(&fork(Process::Relay)));
    machine.step(Event::Signal(SIGTERM), later);
    let effects = machine.step(killed(Process::Relay, SIGKILL), later);
    assert!(!effects.contains(&fork(Process::Relay)));
    assert_eq!(machine.deadline(), Some(later + SECOND));
    assert_eq!(
        machine.step(Event::Tick, later + SECOND),
        [fork(Process::Relay)]
    );
    // One that cannot be forked is tried again.
    let now = later + SECOND;
    assert_eq!(machine.step(Event::NotStarted(Process::Relay, 1), now), []);
    assert_eq!(machine.deadline(), Some(now + SECOND * 2));
}

#[test]
fn only_what_daemons_leave_that_ended_in_order_is_published() {
    const SAVING: Settings = Settings {
        saves: true,
        ..COMMAND
    };
    use Process::{Preparer, Publisher};
    let begin = [Event::Ready, exited(Command, 0), exited(Preparer, 0)];
    let whole = [
        exited(Dockerd, 0),
        exited(Containerd, 0),
        exited(Publisher, 0),
    ];
    let ended = |events: &[Event]| {
        let events: Vec<Event> = begin.iter().chain(events).copied().collect();
        let effects = life(SAVING, &events);
        let published = effects.contains(&Effect::Fork(Publisher));
        let status = effects.iter().find_map(|effect| match effect {
            Effect::Exit(status) => Some(*status),
            _ => None,
        });
        (published, status)
    };
    assert_eq!(ended(&whole), (true, Some(0)));
    for (events, status) in [
        // The container is told to stop while dockerd ends, or while containerd does.
        (
            vec![
                Event::Signal(SIGTERM),
                exited(Dockerd, 0),
                exited(Containerd, 0),
            ],
            143,
        ),
        (
            vec![
                exited(Dockerd, 0),
                Event::Signal(SIGINT),
                exited(Containerd, 0),
            ],
            130,
        ),
        // A daemon fails, is killed, or ends before its turn.
        (
            vec![
                exited(Dockerd, 1),
                exited(Process::Ender, 0),
                exited(Containerd, 0),
            ],
            1,
        ),
        (vec![exited(Dockerd, 0), killed(Containerd, SIGKILL)], 1),
        (vec![exited(Containerd, 0), exited(Dockerd, 0)], 1),
    ] {
        assert_eq!(ended(&events), (false, Some(status)), "{events:?}");
    }
    let daemons = [exited(Dockerd, 0), exited(Containerd, 0)];
    let stop = Event::Signal(SIGTERM);
    for (events, status) in [
        // A command that succeeds when it is told to stop has not made what was asked for.
        (vec![Event::Ready, stop, exited(Command, 0)], 1),
        // It fails, or is killed.
        (vec![Event::Ready, exited(Command, 7)], 7),
        (vec![Event::Ready, killed(Command, SIGKILL)], 137),
        // What is asked of dockerd is not answered, or the container is told to stop meanwhile.
        (
            vec![Event::Ready, exited(Command, 0), exited(Preparer, 1)],
            1,
        ),
        (
            vec![
                Event::Ready,
                exited(Command, 0),
                stop,
                killed(Preparer, SIGTERM),
            ],
            143,
        ),
    ] {
        let all: Vec<Event> = events.iter().chain(&daemons).copied().collect();
        let effects = life(SAVING, &all);
        assert_eq!(effects.last(), Some(&Effect::Exit(status)), "{events:?}");
        assert!(!effects.contains(&Effect::Fork(Publisher)), "{events:?}");
    }
    // A publisher that fails or is killed has published nothing, or has not said so.
    assert_eq!(
        ended(&[
            exited(Dockerd, 0),
            exited(Containerd, 0),
            killed(Publisher, SIGKILL)
        ]),
        (true, Some(1))
    );
}
