//! What has to be made. Pure: the files and the time come in as values.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rcgen::KeyPair;

use super::certificate::Certificate;
use super::files::{Contents, Files};
use super::key;
use super::purpose::Purpose;
use super::verify::{self, Verdict};
use crate::input::san::Name;

/// A certificate with less than this left is made again: a container may run that long.
pub const LEAST: Duration = Duration::from_secs(30 * 24 * 3600);

/// More names than this are not kept: see [`Decision::Manage`].
const MOST_NAMES: usize = 64;

/// What is to be done.
#[derive(Debug)]
pub enum Decision {
    /// Nothing is made: these are the user's own. What cannot be judged is a warning.
    Users(Vec<String>),
    /// This program looks after them.
    Manage(Box<Managed>),
}

/// What of the managed files is there.
#[derive(Debug)]
pub struct Managed {
    /// The authority's key and certificate.
    pub ca: Pair,
    /// dockerd's.
    pub server: Pair,
    /// The clients'.
    pub client: Pair,
    /// What the server's certificate has to be good for: the names that are wanted, and
    /// those that it had. Another daemon on the same volume, whose addresses differ, finds
    /// its own in it then. Only what is wanted, once there are too many.
    pub names: BTreeSet<Name>,
}

impl Managed {
    /// Whether everything is as it should be.
    pub fn is_complete(&self, files: &Files) -> bool {
        let pairs = [&self.ca, &self.server, &self.client];
        pairs
            .iter()
            .all(|pair| pair.certificate.is_ok() && pair.key.is_some())
            && files.server.ca == files.ca.certificate
            && files.client.ca == files.ca.certificate
    }

    /// What certificates that are kept do not do, for the user: which of the `wanted` names
    /// are missing, and which of them expire soon.
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
            .map(|name| format!("server/cert.pem is not for {name}"));
        let soon = pairs.into_iter().filter_map(|(directory, pair)| {
            let certificate = pair.certificate.as_ref().ok()?;
            verify::dates(certificate, now.saturating_add(LEAST))?;
            let days = verify::days_left(certificate, now);
            Some(format!("{directory}/cert.pem expires in {days} days"))
        });
        let all: Vec<String> = missing.chain(soon).collect();
        format!("going on with those that are there: {}", all.join(", "))
    }
}

/// A key and its certificate.
#[derive(Debug)]
pub struct Pair {
    /// The key, if there is one.
    pub key: Option<KeyPair>,
    /// The certificate, or why it has to be made.
    pub certificate: Result<Certificate, &'static str>,
}

/// Decides. A certificate that has less than `left` left is made again. The error names
/// the file, relative to the top directory, and what to do.
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
        bail!(
            "server/{} is missing, and ca/cert.pem has no ca/key.pem to sign it with; \
             add either, or remove ca/cert.pem",
            missing.map_or("cert.pem", |(name, _)| *name)
        );
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
            Err("its names have changed")
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
        key::read(pem).with_context(|| {
            format!("{directory}/key.pem cannot be used; remove it to have another made")
        })
    };
    contents.key.as_ref().map(read).transpose()
}

/// When a certificate has to be valid: now, and so much longer.
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
    let authority = authority.ok_or("the authority is a new one")?;
    match verify::chain(&certificate, &[], &[authority], purpose, dates.now) {
        Verdict::Good => Ok(certificate),
        Verdict::Bad(_) | Verdict::Unknown(_) => Err("another authority has signed it"),
    }
}

/// The certificate that is there for `key` and lasts long enough.
fn present(
    contents: &Contents,
    key: Option<&KeyPair>,
    dates: Dates,
) -> Result<Certificate, &'static str> {
    let key = key.ok_or("there was no key")?;
    let pem = contents.certificate.as_ref().ok_or("there was none")?;
    let certificate = Certificate::read_first(pem).map_err(|_| "it could not be read")?;
    if certificate.public_key != key::public(key) {
        Err("its key has changed")
    } else if verify::dates(&certificate, dates.now).is_some() {
        Err("it was not valid")
    } else if verify::dates(&certificate, dates.now.saturating_add(dates.left)).is_some() {
        Err("less than 30 days are left")
    } else {
        Ok(certificate)
    }
}

/// Verifies the user's own files and gives what cannot be judged.
fn users(server: &Contents, now: Duration) -> Result<Vec<String>> {
    let read = |content: &Option<Vec<u8>>, name: &str| {
        Certificate::read_all(content.as_deref().unwrap_or_default())
            .with_context(|| format!("server/{name} cannot be used; put a PEM certificate there"))
    };
    let authorities = read(&server.ca, "ca.pem")?;
    let chain = read(&server.certificate, "cert.pem")?;
    let (leaf, intermediates) = chain.split_first().context("server/cert.pem is empty")?;
    let mut warnings = Vec::new();
    match key::read(server.key.as_deref().unwrap_or_default()) {
        Ok(key) if key::public(&key) != leaf.public_key => bail!(
            "server/key.pem is not the key of server/cert.pem; put the pair that belongs together there"
        ),
        Ok(_) => {}
        Err(error) => warnings.push(format!(
            "server/key.pem has {error}; dockerd will say whether it can use it"
        )),
    }
    let expired: Vec<String> = authorities
        .iter()
        .filter_map(|authority| verify::dates(authority, now))
        .collect();
    if let (true, Some(reason)) = (expired.len() == authorities.len(), expired.first()) {
        return Err(anyhow!("server/ca.pem: {reason}; put a valid one there"));
    }
    let authorities: Vec<&Certificate> = authorities.iter().collect();
    match verify::chain(leaf, intermediates, &authorities, Purpose::Server, now) {
        Verdict::Good => {}
        Verdict::Bad(reason) => bail!(
            "server/cert.pem does not verify against server/ca.pem: {reason}; \
             put certificates that belong together there"
        ),
        Verdict::Unknown(reason) => warnings.push(format!(
            "server/cert.pem cannot be verified here ({reason}); dockerd will say whether it can use it"
        )),
    }
    Ok(warnings)
}
