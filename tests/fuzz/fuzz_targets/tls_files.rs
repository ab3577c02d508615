//! All files below DOCKER_TLS_CERTDIR at once, each after a line `== DIRECTORY/FILE`: what
//! is decided of them never shows a key, and never replaces what is the user's.

#![no_main]

use std::collections::BTreeSet;
use std::time::Duration;

use dind::input::san::Name;
use dind::tls::decide::{Decision, LEAST, decide};
use dind::tls::files::{Contents, Files};
use dind_fuzz::sections;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let sections = sections(text);
    let content = |name: &str| {
        let found = sections.get(name).map(|text| text.clone().into_bytes());
        found.filter(|content| !content.is_empty())
    };
    let contents = |directory: &str| Contents {
        ca: content(&format!("{directory}/ca.pem")),
        certificate: content(&format!("{directory}/cert.pem")),
        key: content(&format!("{directory}/key.pem")),
    };
    let files = Files {
        ca: contents("ca"),
        server: contents("server"),
        client: contents("client"),
    };
    let names = BTreeSet::from([Name::Dns("docker".into())]);
    let now = Duration::from_secs(1_800_000_000);
    match decide(&files, &names, now, LEAST) {
        Ok(Decision::Users(warnings)) => {
            assert!(files.ca.key.is_none() && files.server.is_complete());
            for warning in warnings {
                shows_no_key(&warning, &files);
            }
        }
        Ok(Decision::Manage(managed)) => {
            assert!(files.ca.key.is_some() || files.ca.certificate.is_none());
            assert!(managed.names.is_superset(&names));
            if managed.is_complete(&files) {
                shows_no_key(&managed.shortcomings(&names, now), &files);
            }
        }
        Err(error) => shows_no_key(&format!("{error:#}"), &files),
    }
});

/// Words as long as a line of base64 are in no message.
fn shows_no_key(message: &str, files: &Files) {
    for key in [&files.ca.key, &files.server.key, &files.client.key] {
        let key = key.as_deref().unwrap_or_default();
        let key = String::from_utf8_lossy(key);
        for word in key.split_whitespace().filter(|word| word.len() >= 16) {
            assert!(!message.contains(word), "{word:?} is in {message:?}");
        }
    }
}
