//! Starts the daemons and supervises them to the end: one loop, one poll(2), one waitpid(2). All
//! decisions are made in `machine`.
//!
//! PID 1 waits in that poll(2) and nowhere else. Work that may take long runs in a child with a
//! deadline in the machine: see [`crate::helpers`]. PID 1 itself does this, all of it bounded:
//!
//! - reading facts, and the steps of the plan (`apply`): files of /proc, /sys and /run, system
//!   calls for mounts, and other file systems only after `helpers::probe` has seen them answer;
//! - before the loop: `helpers::probe`, which takes signals; and for `dind nest`, in the outermost
//!   level, counting pid namespaces for at most 10 s and listing the root file system, while
//!   signals stay pending;
//! - one attempt to delegate cgroup controllers, some 100 µs: a child makes the others;
//! - connecting to dockerd's socket, sending to it and to `NOTIFY_SOCKET`: none of these blocks;
//! - writing log lines, as far as their reader takes them: see [`crate::sys::log`];
//! - fork(2), kill(2), and reading /proc for the processes of inner containers;
//! - after a SIGKILL from elsewhere, reading /proc and cgroupfs for the limit on memory.

mod children;
mod fork;
mod log_file;
mod machine;
mod output;
mod relay;
mod start;
mod supervisor;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::stat::Mode;
use tracing::warn;

use crate::apply::delegate::Unfinished;
use crate::apply::sockets::{Bound, Opened};
use crate::helpers::packer;
use crate::input::config::{Config, StopDeaf};
use crate::messages::fault::Fault;
use crate::messages::logging::LogFormat;
use crate::plan::OWN_OOM_SCORE;
use crate::plan::engine::{Engine, Foreground};
use crate::sys::clock::Clock;
use crate::sys::memory;
use crate::sys::notify::Notify;
use crate::sys::signals::Signals;
use crate::sys::terminal::{self, Terminal};
use children::Children;
use log_file::LogFile;
use machine::{Machine, Need, Settings};
use output::sinks;
use relay::Relay;
use supervisor::Supervisor;

/// The results of the start up to the daemons.
pub struct Beginning {
    /// The sockets that dockerd gets, and the files of the Unix sockets.
    pub opened: Opened,
    /// The delegation of cgroup controllers, where processes still prevent it.
    pub delegation: Option<Unfinished>,
    /// The sockets that the rules for the engine's network interface and the claim on its network end
    /// with.
    pub kept: Vec<OwnedFd>,
    /// The user's file mode creation mask (umask(2)), for the command and the hooks.
    pub umask: Mode,
    /// When this program was started: the zero of the machine's clock.
    pub started: Instant,
}

/// Starts the daemons of `engine` and returns the exit status of the container once everything
/// has ended. `config` gives the log format, and is what the diagnosis of a failed start works on.
///
/// Fails where the log relay's pipes or the socket for `READY=1` cannot be made.
pub fn run(
    engine: &Engine,
    config: &Config,
    signals: Signals,
    beginning: Beginning,
) -> Result<u8, Fault> {
    let Beginning {
        opened: Opened { bound, files, .. },
        delegation,
        kept,
        umask,
        started,
    } = beginning;
    if std::process::id() != 1
        && let Err(errno) = nix::sys::prctl::set_child_subreaper(true)
    {
        warn!(
            "cannot become a subreaper: {}; orphans go to PID 1",
            errno.desc()
        );
    }
    let log = engine.log_file.as_ref().and_then(|path| {
        LogFile::open(path)
            .map_err(|error| {
                let fault = Fault::from(error);
                warn!(
                    "{}",
                    fault.consequence("the daemons' log goes to standard error")
                );
            })
            .ok()
    });
    let standard = (io::stdout(), io::stderr());
    let relay = match config.log_format {
        LogFormat::Text => None,
        LogFormat::Json => Some(Relay::new(sinks(log.as_ref(), engine, &standard))?),
    };
    let terminal = terminal::detect();
    let machine = Machine::new(Settings {
        command: matches!(engine.foreground, Foreground::Command(_)),
        terminal: terminal != Terminal::None,
        containerd: engine.containerd.is_some(),
        namespaces: engine.namespaces.is_some(),
        data_file: Need::of(engine.data_file.as_ref().map(|file| file.required)),
        // An ext4 image may have come from a store.
        filler: engine.filling.is_some() || engine.data_file.is_some(),
        grower: engine
            .data_file
            .as_ref()
            .is_some_and(|file| file.growth.is_some()),
        certificates: engine.certificates.is_some(),
        joiner: engine.network.is_some(),
        delegation: delegation.is_some(),
        loader: Need::of(engine.images.as_ref().map(|images| images.strict)),
        pre_start: !engine.hooks.pre_start.is_empty(),
        post_start: !engine.hooks.post_start.is_empty(),
        pre_stop: !engine.hooks.pre_stop.is_empty(),
        ends_deaf: engine.stop_deaf == StopDeaf::Kill,
        forwarder: engine.forwarder.is_some(),
        port_forwarder: engine.forwarded.is_some(),
        relay: relay.is_some(),
        log_file: log.is_some(),
        ready_timeout: engine.ready_timeout,
        stop: engine.stop,
        restarts: engine.restarts,
        saves: engine.saving.is_some(),
        sweeps: engine.emptied.is_some() || engine.network.is_some(),
    });
    let addresses = bound.iter().map(|bound| bound.address.clone()).collect();
    let (mut forwarded, bound): (Vec<Bound>, Vec<Bound>) =
        bound.into_iter().partition(|bound| bound.forwarded);
    let mut supervisor = Supervisor {
        engine,
        config,
        addresses,
        bound,
        forwarded: forwarded.pop(),
        delegation,
        handover: None,
        namespaces: None,
        generation: None,
        store_lock: None,
        without_data_file: false,
        started,
        clock: Clock::since(started),
        signals,
        standard,
        umask,
        oom_score_adj: memory::lower_oom_score_adj(OWN_OOM_SCORE),
        notify: Notify::bind()?,
        ping: None,
        answered: false,
        children: Children::default(),
        kills: engine.kills.clone(),
        provisioning: None,
        machine,
        terminal,
        log,
        relay,
        held: VecDeque::new(),
        prompt: true,
        leaving: None,
    };
    let status = supervisor.supervise();
    if let (Some(saving), Some(lock)) = (&engine.saving, &supervisor.store_lock)
        && let Some(pack) = &saving.pack
    {
        packer::give_up(&pack.path, lock);
    }
    drop((files, kept));
    Ok(status)
}
