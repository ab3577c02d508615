//! Decides which keys and certificates have to be made. Pure: the files and the time are
//! arguments.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rcgen::KeyPair;

use super::certificate::Certificate;
use super::files::{Contents, Files};
use super::key;
use super::purpose::Purpose;
use super::verify::{self, Verdict};
use crate::input::san::Name;
use crate::messages::remedy::Remedy;

/// A certificate that expires within this time is issued again: a container may run that long.
pub const LEAST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The most names for which old ones are kept: see [`Managed::names`].
const MOST_NAMES: usize = 64;

/// What to do with the files below `DOCKER_TLS_CERTDIR`.
#[derive(Debug)]
pub enum Decision {
    /// Nothing is made: the files are the user's own, and are valid. The strings are warnings
    /// about what cannot be verified.
    Users(Vec<String>),
    /// dind manages the files.
    Manage(Box<Managed>),
}

/// The managed keys and certificates, as far as they are present.
#[derive(Debug)]
pub struct Managed {
    /// The authority's key and certificate.
    pub ca: Pair,
    /// dockerd's key and certificate.
    pub server: Pair,
    /// The clients' key and certificate.
    pub client: Pair,
    /// The names that the server's certificate must have: the wanted ones and those that it had.
    /// So another daemon on the same volume, whose addresses differ, finds its own. Where that
    /// would be more than 64, only the wanted ones.
    pub names: BTreeSet<Name>,
}

impl Managed {
    /// Whether nothing has to be made or written.
    pub fn is_complete(&self, files: &Files) -> bool {
        let pairs = [&self.ca, &self.server, &self.client];
        pairs
            .iter()
            .all(|pair| pair.certificate.is_ok() && pair.key.is_some())
            && files.server.ca == files.ca.certificate
            && files.client.ca == files.ca.certificate
    }

    /// What the user has to know about certificates that are kept though they should be issued
    /// again: which of the `wanted` names are missing, and which certificates expire within
    /// [`LEAST`] of `now`, the time since 1970.
    pub fn shortcomings(&self, wanted: &BTreeSet<Name>, now: Duration) -> String {
        let pairs = [
            ("ca", &self.ca),
            ("server", &self.server),
            ("client", &self.client),
        ];
        let present = self.server.certificate.as_ref().map(|server| &server.names);
        let missing = wanted
            .iter()
            .filter(|name| present.is_ok_and(|present| !present.contains(name)))
            .map(|name| format!("server/cert.pem is not valid for {name}"));
        let soon = pairs.into_iter().filter_map(|(directory, pair)| {
            let certificate = pair.certificate.as_ref().ok()?;
            verify::dates(certificate, now.saturating_add(LEAST))?;
            let days = verify::days_left(certificate, now);
            Some(format!("{directory}/cert.pem expires in {days} days"))
        });
        let all: Vec<String> = missing.chain(soon).collect();
        format!("keeping the existing certificates: {}", all.join(", "))
    }
}

/// A key and its certificate.
#[derive(Debug)]
pub struct Pair {
    /// The key, if it is present.
    pub key: Option<KeyPair>,
    /// The certificate, or the reason why it has to be issued.
    pub certificate: Result<Certificate, &'static str>,
}

/// Decides what to do with `files`, for a server with the `wanted` names at `now`, the time since
/// 1970. A certificate that expires within `left` is issued again. The error names the file,
/// relative to the top directory, and what the user can do.
pub fn decide(
    files: &Files,
    wanted: &BTreeSet<Name>,
    now: Duration,
    left: Duration,
) -> Result<Decision> {
    if files.ca.key.is_none() && files.server.is_complete() {
        return users(&files.server, now).map(Decision::Users);
    }
    if files.ca.key.is_none() && files.ca.certificate.is_some() {
        let missing = [
            ("ca.pem", &files.server.ca),
            ("cert.pem", &files.server.certificate),
            ("key.pem", &files.server.key),
        ];
        let missing = missing.iter().find(|(_, content)| content.is_none());
        return Err(anyhow!(
            "server/{} is missing, and ca/cert.pem has no ca/key.pem to sign it with",
            missing.map_or("cert.pem", |(name, _)| *name)
        )
        .remedy("add either, or remove ca/cert.pem"));
    }
    let ca_key = read_key(&files.ca, "ca")?;
    let dates = Dates { now, left };
    let ca = present(&files.ca, ca_key.as_ref(), dates);
    let server_key = read_key(&files.server, "server")?;
    let client_key = read_key(&files.client, "client")?;
    let authority = ca.as_ref().ok();
    let server = leaf(
        &files.server,
        server_key.as_ref(),
        authority,
        Purpose::Server,
        dates,
    );
    let client = leaf(
        &files.client,
        client_key.as_ref(),
        authority,
        Purpose::Client,
        dates,
    );
    let present = server
        .as_ref()
        .map(|server| server.names.clone())
        .unwrap_or_default();
    let all: BTreeSet<Name> = wanted.union(&present).cloned().collect();
    let names = if all.len() > MOST_NAMES {
        wanted.clone()
    } else {
        all
    };
    let server = server.and_then(|server| {
        if wanted.is_subset(&server.names) {
            Ok(server)
        } else {
            Err("the names changed")
        }
    });
    Ok(Decision::Manage(Box::new(Managed {
        ca: Pair {
            key: ca_key,
            certificate: ca,
        },
        server: Pair {
            key: server_key,
            certificate: server,
        },
        client: Pair {
            key: client_key,
            certificate: client,
        },
        names,
    })))
}

fn read_key(contents: &Contents, directory: &str) -> Result<Option<KeyPair>> {
    let read = |pem: &Vec<u8>| {
        key::read(pem)
            .with_context(|| format!("{directory}/key.pem cannot be used"))
            .remedy("remove it, and a new one is made")
    };
    contents.key.as_ref().map(read).transpose()
}

/// The period in which a certificate has to be valid: from `now`, the time since 1970, on for
/// `left`.
#[derive(Debug, Clone, Copy)]
struct Dates {
    now: Duration,
    left: Duration,
}

fn leaf(
    contents: &Contents,
    key: Option<&KeyPair>,
    authority: Option<&Certificate>,
    purpose: Purpose,
    dates: Dates,
) -> Result<Certificate, &'static str> {
    let certificate = present(contents, key, dates)?;
    let authority = authority.ok_or("the authority is new")?;
    match verify::chain(&certificate, &[], &[authority], purpose, dates.now) {
        Verdict::Good => Ok(certificate),
        Verdict::Bad(_) | Verdict::Unknown(_) => Err("it was signed by another authority"),
    }
}

/// The certificate that is present, if it is for `key` and valid long enough.
fn present(
    contents: &Contents,
    key: Option<&KeyPair>,
    dates: Dates,
) -> Result<Certificate, &'static str> {
    let key = key.ok_or("its key was missing")?;
    let pem = contents
        .certificate
        .as_ref()
        .ok_or("the certificate was missing")?;
    let certificate = Certificate::read_first(pem).map_err(|_| "it could not be parsed")?;
    if certificate.public_key != key::public(key) {
        Err("its key changed")
    } else if verify::dates(&certificate, dates.now).is_some() {
        Err("it was not valid now")
    } else if verify::dates(&certificate, dates.now.saturating_add(dates.left)).is_some() {
        Err("it would expire within 30 days")
    } else {
        Ok(certificate)
    }
}

/// Verifies the user's own files, and returns warnings about what cannot be verified.
fn users(server: &Contents, now: Duration) -> Result<Vec<String>> {
    let read = |content: &Option<Vec<u8>>, name: &str| {
        Certificate::read_all(content.as_deref().unwrap_or_default())
            .with_context(|| format!("server/{name} cannot be used"))
            .remedy("put a PEM certificate there")
    };
    let authorities = read(&server.ca, "ca.pem")?;
    let chain = read(&server.certificate, "cert.pem")?;
    let (leaf, intermediates) = chain
        .split_first()
        .context("server/cert.pem is empty")
        .remedy("put a PEM certificate there")?;
    let mut warnings = Vec::new();
    match key::read(server.key.as_deref().unwrap_or_default()) {
        Ok(key) if key::public(&key) != leaf.public_key => {
            let error = anyhow!("server/key.pem is not the key of server/cert.pem");
            return Err(error.remedy("put a matching pair there"));
        }
        Ok(_) => {}
        Err(error) => warnings.push(format!(
            "server/key.pem cannot be verified here ({error}); dockerd's log shows whether it can use it"
        )),
    }
    let expired: Vec<String> = authorities
        .iter()
        .filter_map(|authority| verify::dates(authority, now))
        .collect();
    if let (true, Some(reason)) = (expired.len() == authorities.len(), expired.first()) {
        return Err(anyhow!("server/ca.pem: {reason}").remedy("put a valid one there"));
    }
    let authorities: Vec<&Certificate> = authorities.iter().collect();
    match verify::chain(leaf, intermediates, &authorities, Purpose::Server, now) {
        Verdict::Good => {}
        Verdict::Bad(reason) => {
            let error =
                anyhow!("server/cert.pem does not verify against server/ca.pem: {reason}");
            return Err(error.remedy("put matching certificates there"));
        }
        Verdict::Unknown(reason) => warnings.push(format!(
            "server/cert.pem cannot be verified here ({reason}); dockerd's log shows whether it can use it"
        )),
    }
    Ok(warnings)
}
