//! Whether dockerd has TLS on the TCP socket, and with which files.

use std::ffi::OsString;

use super::engine::Certificates;
use super::inputs::{Addresses, Inputs};
use super::listener::Protection;
use super::words::with_value;
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::Origin;
use crate::input::san::Name;

/// The TCP port for TLS that docker:dind uses.
pub const TLS_PORT: u16 = 2376;

/// dockerd's flags and files for TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// dockerd's flags, without those that daemon.json sets: dockerd refuses an option that is in
    /// both.
    pub flags: Vec<OsString>,
    /// The files to issue or to verify; `None` if all of them are the user's.
    pub certificates: Option<Certificates>,
}

/// Whether `DOCKER_TLS_CERTDIR` asks for TLS. wrapdocker had none.
pub fn wanted(addresses: Addresses<'_>) -> bool {
    addresses.config.tls_directory.is_some() && addresses.contract != Contract::Wrapdocker
}

/// Returns the TLS of the socket. `wanted` is whether a start gives dockerd `--tlsverify` by
/// [`wanted()`]; an option that the user has set wins over that.
pub fn protection(wanted: bool, addresses: Addresses<'_>) -> Protection {
    let tls = addresses.options.tls;
    match tls.verify.value() {
        Some(true) => Protection::Mutual,
        None if wanted => Protection::Mutual,
        Some(false) => Protection::Encrypted,
        None if tls.is_on() => Protection::Encrypted,
        None => Protection::None,
    }
}

/// Returns the flags and files for a socket that has TLS by [`wanted`].
pub fn plan(inputs: Inputs<'_>) -> Tls {
    let Some(directory) = &inputs.config.tls_directory else {
        return Tls::default();
    };
    let tls = &inputs.options.tls;
    let server = directory.join("server");
    let files = [
        ("--tlscacert=", "ca.pem", tls.ca),
        ("--tlscert=", "cert.pem", tls.certificate),
        ("--tlskey=", "key.pem", tls.key),
    ];
    let ours: Vec<OsString> = files
        .into_iter()
        .filter(|(_, _, origin)| *origin == Origin::Default)
        .map(|(flag, name, _)| with_value(flag, server.join(name)))
        .collect();
    let certificates = (!ours.is_empty()).then(|| Certificates {
        directory: directory.clone(),
        names: names(inputs),
        // Where no root writes them, they are the engine's user's already.
        owner: inputs
            .rootless()
            .filter(|_| inputs.surroundings.user == 0)
            .map(|(rootless, _)| rootless.account.user),
    });
    // dockerd ignores the three files unless `--tls` or `--tlsverify` is a flag.
    let switch = match (tls.verify.file, tls.tls.file) {
        (None, _) => Some(OsString::from("--tlsverify")),
        (Some(_), None) if !ours.is_empty() => Some(OsString::from("--tls")),
        (Some(_), _) => None,
    };
    Tls {
        flags: switch.into_iter().chain(ours).collect(),
        certificates,
    }
}

/// The names in the server's certificate: every one under which this container can be reached, as
/// in docker-library's `dockerd-entrypoint.sh`.
fn names(inputs: Inputs<'_>) -> std::collections::BTreeSet<Name> {
    let addresses = inputs.facts.addresses.iter().copied().map(Name::Ip);
    let known = ["docker", "localhost"].into_iter();
    let hosts = known.chain(inputs.facts.host_names.iter().map(String::as_str));
    addresses
        .chain(hosts.filter_map(Name::host))
        .chain(inputs.config.tls_names.iter().cloned())
        .collect()
}
