//! Whether the TCP socket has TLS, and with whose files.

use std::ffi::OsString;

use super::engine::Certificates;
use super::inputs::Inputs;
use super::listener::Protection;
use super::words::with_value;
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::Origin;
use crate::input::san::Name;

/// The port that docker:dind made customary.
pub const TLS_PORT: u16 = 2376;

/// What TLS takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// dockerd's flags, without those that daemon.json has: it refuses to read an
    /// option in both.
    pub flags: Vec<OsString>,
    /// The files, where there are some to issue or to verify.
    pub certificates: Option<Certificates>,
}

/// Whether `DOCKER_TLS_CERTDIR` asks for TLS on `port`, or on a port of this program's
/// choice. wrapdocker knew no TLS.
pub fn wanted(port: Option<u16>, inputs: Inputs<'_>) -> bool {
    inputs.config.tls_directory.is_some()
        && inputs.contract != Contract::Wrapdocker
        && port.is_none_or(|port| port == TLS_PORT)
}

/// What the socket's TLS is, where `ours` is whether this program asks for it. dockerd
/// takes the last flag, and what daemon.json has is not repeated as a flag.
pub fn protection(ours: bool, inputs: Inputs<'_>) -> Protection {
    let tls = inputs.options.tls;
    match tls.verify.value() {
        Some(true) => Protection::Mutual,
        None if ours => Protection::Mutual,
        Some(false) => Protection::Encrypted,
        None if tls.is_on() => Protection::Encrypted,
        None => Protection::None,
    }
}

/// The flags and the files, for a start whose socket has TLS by [`wanted`].
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
    });
    // Without either as a flag dockerd takes no notice of the three files.
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

/// What the server's certificate is good for: every name under which this container can
/// be reached, as docker-library's script had it.
fn names(inputs: Inputs<'_>) -> std::collections::BTreeSet<Name> {
    let addresses = inputs.facts.addresses.iter().copied().map(Name::Ip);
    let known = ["docker", "localhost"].into_iter();
    let hosts = known.chain(inputs.facts.host_names.iter().map(String::as_str));
    addresses
        .chain(hosts.filter_map(Name::host))
        .chain(inputs.config.tls_names.iter().cloned())
        .collect()
}
