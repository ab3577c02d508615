//! The text that `dind plan` prints: one line for each fact of the plan, and below each step its
//! reason.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::action::Step;
use super::engine::{
    Certificates, DataFile, Engine, Filling, Foreground, NewDataFile, Readiness, Saving,
};
use super::growth::Growth;
use super::outcome::{Outcome, Plan};
use super::own_network::OwnNetwork;
use super::words::quoted;
use crate::messages::line::one_line;

/// Writes `text` as one line: control characters in it are escaped.
fn line(formatter: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(formatter, "{}", one_line(&text.to_string()))
}

fn steps(formatter: &mut fmt::Formatter<'_>, when: &str, steps: &[Step]) -> fmt::Result {
    steps.iter().try_for_each(|step| {
        line(formatter, format_args!("{when}: {}", step.action))?;
        line(formatter, format_args!("    # {}", step.why))
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(
            formatter,
            format_args!("contract: {}", self.contract.name()),
        )?;
        for warning in &self.warnings {
            let severity = warning.severity.name();
            line(formatter, format_args!("{severity}: {warning}"))?;
        }
        for note in &self.notes {
            line(formatter, format_args!("note: {note}"))?;
        }
        if let Outcome::Supervise(engine) = &self.outcome {
            for listener in &engine.listeners {
                line(formatter, format_args!("listen: {listener}"))?;
            }
        }
        steps(formatter, "step", &self.steps)?;
        match &self.outcome {
            Outcome::Become { command, .. } => {
                line(formatter, format_args!("become: {}", quoted(command)))
            }
            Outcome::Supervise(engine) => engine.fmt(formatter),
        }
    }
}

impl fmt::Display for DataFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if let Some(NewDataFile { size, mkfs, .. }) = &self.new {
            let mkfs = mkfs.display();
            write!(formatter, "truncate -s {size} {path}; {mkfs} {path}; ")?;
        }
        let target = self.target.display();
        write!(formatter, "mount -t ext4 -o loop,discard {path} {target}")?;
        if let Some(Growth { most }) = self.growth {
            write!(formatter, "; grow it as it fills, to {most} at most")?;
        }
        match &self.otherwise {
            Some(driver) => write!(
                formatter,
                "; if that fails, dockerd gets {}",
                driver.display()
            ),
            None => Ok(()),
        }
    }
}

impl fmt::Display for OwnNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bridge,
            address,
            prefix,
            ..
        } = self;
        write!(
            formatter,
            "ip link add {bridge} type bridge; ip address add {address}/{prefix} dev {bridge}; ip link set {bridge} up"
        )?;
        let made = self.rules_of_made();
        self.rules()
            .iter()
            .chain(&made)
            .filter_map(|rule| rule.split_first())
            .try_for_each(|(table, rest)| {
                write!(formatter, "; iptables -t {table} -A {}", rest.join(" "))
            })
    }
}

impl fmt::Display for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
        write!(
            formatter,
            "certificates in {} for {}",
            self.directory.display(),
            names.join(",")
        )
    }
}

impl fmt::Display for Filling {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (root, store) = (self.data_root.display(), self.store.display());
        write!(
            formatter,
            "fill {root} from the store {store}, if it is empty"
        )
    }
}

impl fmt::Display for Saving {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cache = match self.build_cache {
            true => "images and build cache",
            false => "images",
        };
        let store = self.target().display();
        write!(
            formatter,
            "publish {cache} in the store {store} if the command succeeds"
        )
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespaces) = &self.namespaces {
            line(formatter, format_args!("prepare: {namespaces}"))?;
            if let Some(veth) = &namespaces.veth {
                line(formatter, format_args!("prepare: {veth}"))?;
            }
            steps(formatter, "inside", &namespaces.steps)?;
        }
        if let Some(data_file) = &self.data_file {
            line(formatter, format_args!("prepare: {data_file}"))?;
        }
        if let Some(filling) = &self.filling {
            line(formatter, format_args!("prepare: {filling}"))?;
        }
        if let Some(saving) = &self.saving {
            line(formatter, format_args!("at the end: {saving}"))?;
        }
        if let Some(network) = &self.network {
            line(formatter, format_args!("prepare: {network}"))?;
        }
        if let Some(certificates) = &self.certificates {
            line(formatter, format_args!("prepare: {certificates}"))?;
        }
        let seconds = self.hooks.timeout.as_secs_f64();
        let mut hooks = |stage: &str, hooks: &[PathBuf]| {
            hooks.iter().try_for_each(|path| {
                let path = path.display();
                line(
                    formatter,
                    format_args!("hook: {stage} {path}, within {seconds} s"),
                )
            })
        };
        hooks("pre-start", &self.hooks.pre_start)?;
        hooks("post-start", &self.hooks.post_start)?;
        hooks("pre-stop", &self.hooks.pre_stop)?;
        let connector = self.user_network.as_ref();
        let connector = connector.map(|connector| &connector.program);
        let beside = [self.containerd.as_ref(), connector, self.dmsetup.as_ref()];
        for program in std::iter::once(&self.dockerd).chain(beside.into_iter().flatten()) {
            let words = std::iter::once(program.path.as_os_str())
                .chain(program.arguments.iter().map(OsString::as_os_str));
            line(formatter, format_args!("start: {}", quoted(words)))?;
        }
        if let Some(forwarded) = &self.forwarded {
            line(formatter, format_args!("forward: {forwarded}"))?;
        }
        if let Some(forwarder) = &self.forwarder {
            line(formatter, format_args!("forward: {forwarder}"))?;
        }
        steps(formatter, "meanwhile", &self.meanwhile)?;
        match &self.log_file {
            Some(log) => line(formatter, format_args!("log: {}", log.path.display()))?,
            None => line(formatter, format_args!("log: standard output and error"))?,
        }
        let timeout = self.ready_timeout.as_secs_f64();
        match &self.readiness {
            Readiness::Ping(path) => line(
                formatter,
                format_args!(
                    "ready: when unix://{} answers, within {timeout} s",
                    path.display()
                ),
            )?,
            Readiness::Notify => line(
                formatter,
                format_args!("ready: when dockerd sends READY=1, within {timeout} s"),
            )?,
        }
        if let Some(images) = &self.images {
            line(formatter, format_args!("images: {images}"))?;
        }
        match &self.foreground {
            Foreground::Daemon => line(formatter, format_args!("then: run until dockerd exits"))?,
            Foreground::Command(command) => {
                line(formatter, format_args!("then: run {}", quoted(command)))?;
            }
        }
        match self.restarts {
            0 => {}
            u32::MAX => line(formatter, format_args!("restart: a daemon that fails"))?,
            limit => line(
                formatter,
                format_args!("restart: a daemon that fails, at most {limit} times in a row"),
            )?,
        }
        let emptied = match &self.emptied {
            Some(emptied) => format!(", and empty {}", emptied.path.display()),
            None => String::new(),
        };
        let stop = self.stop.shown(
            matches!(self.foreground, Foreground::Command(_)),
            !self.hooks.pre_stop.is_empty(),
            self.containerd.is_some(),
        );
        line(formatter, format_args!("stop: {stop}{emptied}"))
    }
}
