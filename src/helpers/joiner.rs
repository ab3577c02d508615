//! The network joiner: beside another engine in this network namespace, it makes a default bridge
//! for this one, and the rules by which inner containers reach what is outside. At the end the
//! sweeper takes them away.

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::wait::WaitStatus;
use tracing::warn;

use super::run::run;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::plan::own_network::OwnNetwork;
use crate::sys::bridge;
use crate::sys::search::search;
use crate::sys::signals::Inherited;

/// Makes the bridge and the rules, where they are missing. Where a rule cannot be made, warns. The
/// error names the bridge.
pub fn join(network: &OwnNetwork, inherited: &Inherited) -> Result<()> {
    let OwnNetwork {
        bridge,
        address,
        prefix,
        ..
    } = network;
    let made = || -> nix::Result<()> {
        let control = bridge::control()?;
        match bridge::add(&control, bridge) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        bridge::configure(&control, bridge, *address, *prefix)
    };
    made()
        .with_context(|| format!("cannot make the bridge {bridge}"))
        .remedy("give this container a network of its own")?;
    for rule in network.rules().iter().chain(&network.rules_of_made()) {
        if let Err(error) = add(network, rule, inherited) {
            let program = "iptables";
            let fault = Fault::from(
                error
                    .context("cannot add a rule")
                    .remedy("give this container a network of its own"),
            )
            .consequence("inner containers may not reach what is outside");
            warn!(program, "{fault}");
        }
    }
    Ok(())
}

/// Takes away what [`join`] has made for this engine alone: the rules of its default bridge, and the
/// bridge. What cannot be removed is logged.
pub fn leave(network: &OwnNetwork, inherited: &Inherited) {
    let bridge = &network.bridge;
    let remedy = format!("remove it: ip link delete {bridge}");
    for rule in network.rules() {
        if let Err(error) = iptables(network, "-D", &rule, inherited) {
            let fault = Fault::from(error.context("cannot remove a rule").remedy(&remedy));
            warn!(program = "iptables", "{fault}");
        }
    }
    let removed = bridge::control().and_then(|control| bridge::remove(&control, bridge));
    if let Err(errno) = removed
        && errno != Errno::ENODEV
    {
        let what = format!("cannot remove the bridge {bridge}");
        warn!(
            "{}",
            Fault::from(anyhow::Error::new(errno).context(what).remedy(&remedy))
        );
    }
}

/// Appends a rule, unless it is there.
fn add(network: &OwnNetwork, rule: &[String], inherited: &Inherited) -> Result<()> {
    iptables(network, "-C", rule, inherited).or_else(|_| iptables(network, "-A", rule, inherited))
}

/// Calls `iptables` for a rule. The error has its output.
fn iptables(
    network: &OwnNetwork,
    verb: &str,
    rule: &[String],
    inherited: &Inherited,
) -> Result<()> {
    let iptables =
        search("iptables", &network.search_path).context("there is no iptables in PATH")?;
    let (table, rest) = rule.split_first().context("a rule without a table")?;
    let first = ["-w", "-t", table, verb].map(str::to_owned);
    let words: Vec<String> = first.into_iter().chain(rest.iter().cloned()).collect();
    match run(&iptables, &words, inherited)? {
        (WaitStatus::Exited(_, 0), _) => Ok(()),
        (_, output) => bail!("{}: {}", iptables.display(), output.trim()),
    }
}
