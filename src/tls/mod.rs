//! The TLS files of a daemon and its clients: issued as docker-library's entrypoint does, or
//! verified where they are the user's own.
//!
//! The directory `ca` has the authority's files, `server` dockerd's, and `client` those that are
//! shared with clients. [`mod@decide`] is pure; [`files`] reads and writes,
//! and [`mod@lock`] has one daemon at a time do that.

pub mod certificate;
pub mod decide;
pub mod files;
pub mod issue;
pub mod key;
pub mod lock;
pub mod purpose;
pub mod verify;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use rcgen::KeyPair;

use crate::input::san::Name;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use decide::{Decision, LEAST, Managed, Pair, decide};
use files::{CERTIFICATE_MODE, CLIENT_KEY_MODE, KEY_MODE};
use files::{Change, Content, Directories, Directory, Files};
use issue::Authority;
use lock::Locking;
use purpose::Purpose;

/// How often certificates are made that another daemon has replaced before they were looked at
/// again: one that has no part in the lock, such as one with an authority of its own and the same
/// directory for clients.
const ROUNDS: u32 = 5;

/// What [`prepare`] did. Its [`Display`](fmt::Display) is a line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    directory: PathBuf,
    made: Made,
    /// Warnings for the user, one line each.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Made {
    /// The certificates that were issued.
    Anew(Vec<Reason>),
    /// None: the files are the user's own.
    Users,
}

/// The directory of a certificate that was issued, and the reason.
type Reason = (&'static str, &'static str);

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "certificates in {}: ", self.directory.display())?;
        match &self.made {
            Made::Users => write!(formatter, "your own, verified"),
            Made::Anew(made) if made.is_empty() => write!(formatter, "kept"),
            Made::Anew(made) => {
                let made: Vec<String> = made
                    .iter()
                    .map(|(what, why)| format!("{what} ({why})"))
                    .collect();
                write!(formatter, "made {}", made.join(", "))
            }
        }
    }
}

/// Makes the files below `directory` that are missing, do not fit `names` or expire within
/// [`LEAST`] of `now`; where they are the user's own, verifies them. Where nothing has to be
/// made, nothing is written. Where nothing can be written, certificates that are still valid are
/// kept, with a warning: a read-only directory cannot have the address of the next container.
/// Several daemons may do this at once. The error names the file and what the user can do.
pub fn prepare(directory: &Path, names: &BTreeSet<Name>, now: SystemTime) -> Result<Summary> {
    let now = now
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")
        .remedy("set it")?;
    let context = || format!("the certificates in {}", directory.display());
    // Without random numbers, rcgen panics when it parses a key.
    issue::random(&mut [0]).with_context(context)?;
    let look = |names: &BTreeSet<Name>, left: Duration| -> Result<(Files, Decision)> {
        let files = Files::read(directory)?;
        let decision = decide(&files, names, now, left).with_context(context)?;
        Ok((files, decision))
    };
    let make = || -> Result<(Made, Vec<String>)> {
        let directories = Directories::open(directory)?;
        let (_lock, mut warnings) = match directories.lock() {
            Some(Locking::Locked(lock)) => (Some(lock), Vec::new()),
            Some(Locking::Without(warning)) => (None, vec![warning]),
            Some(Locking::ReadOnly) | None => (None, Vec::new()),
        };
        let mut all = Vec::new();
        for _ in 0..ROUNDS {
            // Another daemon may have made them in the meantime.
            let (files, managed) = match look(names, LEAST)? {
                (files, Decision::Manage(managed)) => (files, managed),
                (_, Decision::Users(warnings)) => return Ok((Made::Users, warnings)),
            };
            if managed.is_complete(&files) {
                files::share_client_key(directory);
                return Ok((Made::Anew(all), warnings));
            }
            let (changes, made) = changes(&files, *managed, now).with_context(context)?;
            directories.carry_out(&changes)?;
            for made in made {
                if !all.contains(&made) {
                    all.push(made);
                }
            }
        }
        warnings.push(format!(
            "another daemon changes the certificates in {} at the same time; give each daemon a \
             directory of its own",
            directory.display()
        ));
        files::share_client_key(directory);
        Ok((Made::Anew(all), warnings))
    };
    let (made, warnings) = match look(names, LEAST)? {
        (_, Decision::Users(warnings)) => (Made::Users, warnings),
        (files, Decision::Manage(managed)) if managed.is_complete(&files) => {
            files::share_client_key(directory);
            (Made::Anew(Vec::new()), Vec::new())
        }
        (_, Decision::Manage(_)) => make().or_else(|error| {
            let nothing = BTreeSet::new();
            match look(&nothing, Duration::ZERO)? {
                (files, Decision::Manage(managed)) if managed.is_complete(&files) => {
                    let fault = Fault::from(error);
                    let warning = fault.consequence(&managed.shortcomings(names, now));
                    Ok((Made::Anew(Vec::new()), vec![warning.to_string()]))
                }
                _ => Err(error),
            }
        })?,
    };
    Ok(Summary {
        directory: directory.to_owned(),
        made,
        warnings,
    })
}

/// The changes that make what is missing, and the reasons. In their order every reader finds
/// files that fit: the client's files come last, and of those `ca.pem`, for which clients wait.
fn changes(files: &Files, managed: Managed, now: Duration) -> Result<(Vec<Change>, Vec<Reason>)> {
    let mut changes = Vec::new();
    let mut made = Vec::new();
    let ca_pem = files.ca.certificate.clone();
    let key = kept_or_made(managed.ca.key, Directory::Ca, KEY_MODE, &mut changes)?;
    let (authority, ca_pem) = match (managed.ca.certificate, ca_pem) {
        (Ok(certificate), Some(content)) => {
            let authority = Authority {
                pem: String::new(),
                certificate,
                key,
            };
            (authority, content)
        }
        (Ok(_), None) => {
            return Err(anyhow!("ca/cert.pem was removed meanwhile").remedy("start again"));
        }
        (Err(why), _) => {
            made.push(("ca", why));
            let authority = issue::authority(key, now)?;
            let content = authority.pem.clone().into_bytes();
            changes.push(write(
                Directory::Ca,
                "cert.pem",
                CERTIFICATE_MODE,
                content.clone(),
            ));
            (authority, content)
        }
    };
    let mut side = |directory,
                    pair: Pair,
                    mode,
                    purpose,
                    names: &BTreeSet<Name>,
                    old: &Content|
     -> Result<()> {
        // A client that has waited for ca.pem must find a key and a certificate that fit it.
        let is_new = old.as_ref() != Some(&ca_pem) || pair.key.is_none();
        if is_new && old.is_some() {
            changes.push(Change::Remove {
                directory,
                name: "ca.pem",
            });
        }
        let key = kept_or_made(pair.key, directory, mode, &mut changes)?;
        if let Err(why) = pair.certificate {
            made.push((directory.name(), why));
            let pem = issue::leaf(purpose, names, &key, &authority, now)
                .context("ca/cert.pem cannot be used")
                .remedy("remove it, and a new one is made")?;
            changes.push(write(
                directory,
                "cert.pem",
                CERTIFICATE_MODE,
                pem.into_bytes(),
            ));
        }
        if is_new {
            changes.push(write(directory, "ca.pem", CERTIFICATE_MODE, ca_pem.clone()));
        }
        Ok(())
    };
    side(
        Directory::Server,
        managed.server,
        KEY_MODE,
        Purpose::Server,
        &managed.names,
        &files.server.ca,
    )?;
    let no_names = BTreeSet::new();
    side(
        Directory::Client,
        managed.client,
        CLIENT_KEY_MODE,
        Purpose::Client,
        &no_names,
        &files.client.ca,
    )?;
    Ok((changes, made))
}

fn kept_or_made(
    key: Option<KeyPair>,
    directory: Directory,
    mode: u32,
    changes: &mut Vec<Change>,
) -> Result<KeyPair> {
    match key {
        Some(key) => Ok(key),
        None => {
            let key = key::make()?;
            let pem = key.serialize_pem().into_bytes();
            changes.push(write(directory, "key.pem", mode, pem));
            Ok(key)
        }
    }
}

fn write(directory: Directory, name: &'static str, mode: u32, content: Vec<u8>) -> Change {
    Change::Write {
        directory,
        name,
        mode,
        content,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use files::Contents;

    const NOW: Duration = Duration::from_secs(2_000_000_000);

    fn managed(files: &Files, names: &BTreeSet<Name>) -> Managed {
        match decide(files, names, NOW, LEAST) {
            Ok(Decision::Manage(managed)) => *managed,
            other => panic!("{other:?}"),
        }
    }

    /// Makes what is missing in `files`, and returns the changes in their order: the name of each
    /// file, with `-` in front if it is removed.
    fn make(files: &mut Files, names: &BTreeSet<Name>) -> Vec<String> {
        let (changes, _) = changes(files, managed(files, names), NOW).unwrap_or_default();
        let mut order = Vec::new();
        for change in changes {
            let (sign, directory, name, content) = match change {
                Change::Write {
                    directory,
                    name,
                    content,
                    ..
                } => ("", directory, name, Some(content)),
                Change::Remove { directory, name } => ("-", directory, name, None),
            };
            order.push(format!("{sign}{}/{name}", directory.name()));
            let contents: &mut Contents = match directory {
                Directory::Ca => &mut files.ca,
                Directory::Server => &mut files.server,
                Directory::Client => &mut files.client,
            };
            match name {
                "ca.pem" => contents.ca = content,
                "cert.pem" => contents.certificate = content,
                _ => contents.key = content,
            }
        }
        order
    }

    const SERVER: [&str; 3] = ["server/key.pem", "server/cert.pem", "server/ca.pem"];
    const CLIENT: [&str; 3] = ["client/key.pem", "client/cert.pem", "client/ca.pem"];

    #[test]
    fn the_authoritys_key_is_first_and_the_clients_ca_pem_is_last() {
        let mut files = Files::default();
        let names = [Name::Dns("docker".into())].into();
        let order = make(&mut files, &names);
        let all = [&["ca/key.pem", "ca/cert.pem"], &SERVER[..], &CLIENT[..]].concat();
        assert_eq!(order, all);
        // After that nothing is left to do.
        assert!(managed(&files, &names).is_complete(&files));
        assert_eq!(make(&mut files, &names), Vec::<String>::new());
    }

    #[test]
    fn ca_pem_is_removed_while_a_key_or_the_authority_is_replaced() {
        let no_names = BTreeSet::new();
        let mut made = Files::default();
        make(&mut made, &no_names);
        let with = |change: fn(&mut Files)| {
            let mut files = made.clone();
            change(&mut files);
            let order = make(&mut files, &no_names);
            assert!(managed(&files, &no_names).is_complete(&files));
            order
        };
        let withdrawn = [&["-client/ca.pem"], &CLIENT[..]].concat();
        assert_eq!(with(|files| files.client.key = None), withdrawn);
        let order = with(|files| files.ca.certificate = None);
        let server = ["-server/ca.pem", "server/cert.pem", "server/ca.pem"];
        let client = ["-client/ca.pem", "client/cert.pem", "client/ca.pem"];
        assert_eq!(order, [&["ca/cert.pem"], &server[..], &client[..]].concat());
        // The key is kept, so the old certificate fits until the new one is written.
        assert_eq!(
            with(|files| files.client.certificate = None),
            ["client/cert.pem"]
        );
    }
}
