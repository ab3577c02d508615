//! The images that dockerd has before anything is loaded.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::answer::{STALL, refusal};
use crate::api::exchange::{Body, Exchange, ExchangeError};

/// The longest list of images that is read, in bytes: more than any daemon's.
const LONGEST_LIST: usize = 64 << 20;

/// dockerd's images, and the version of its API.
pub struct Inventory {
    /// The names and ids of its images, in the form that its answers to loads have.
    images: BTreeSet<String>,
    /// The newest version of the API that it supports, as in 1.42.
    pub api_version: Option<(u32, u32)>,
}

impl Inventory {
    /// Asks the dockerd that listens on `socket`, and blocks until it has answered. The error is
    /// that it closes the connection, refuses, or does not answer within [`STALL`].
    pub fn ask(socket: &Path) -> Result<Self, ExchangeError> {
        // all=1 adds intermediate images: an image that was loaded without a name may be the
        // parent of another one now.
        let exchange = Exchange::begin(socket, "GET", "/images/json?all=1", Body::None)?;
        let (answer, content) = exchange.finish(STALL, LONGEST_LIST)?;
        Ok(Self {
            images: names(&content, answer.status())?,
            api_version: answer.api_version(),
        })
    }

    /// Whether dockerd has all of these images.
    pub fn has_all(&self, images: &[String]) -> bool {
        images.iter().all(|image| self.images.contains(image))
    }
}

/// The names and ids in a list of images: Docker Engine API, ImageList. The error is dockerd's
/// refusal, or that the content is not a list in JSON.
fn names(content: &[u8], status: Option<u16>) -> Result<BTreeSet<String>> {
    let value: Value = serde_json::from_slice(content).unwrap_or_default();
    let list = match status {
        Some(200) => value.as_array().context("the list is not JSON")?,
        status => bail!(refusal(&value, status)),
    };
    let names = list.iter().flat_map(|image| {
        let tags = image.get("RepoTags").and_then(Value::as_array);
        let tags = tags.into_iter().flatten();
        tags.chain(image.get("Id")).filter_map(Value::as_str)
    });
    Ok(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_by_name_and_id() -> Result<()> {
        let list = br#"[{"Id": "sha256:1", "RepoTags": ["a:1", "a:2"]},
            {"Id": "sha256:2", "RepoTags": null}, {"Id": "sha256:3"}]"#;
        let inventory = Inventory {
            images: names(list, Some(200))?,
            api_version: None,
        };
        let has = |names: &[&str]| {
            let names: Vec<String> = names.iter().copied().map(str::to_owned).collect();
            inventory.has_all(&names)
        };
        assert!(has(&["a:2", "sha256:2"]));
        assert!(has(&["sha256:1", "sha256:3"]));
        assert!(!has(&["a:1", "b:1"]));
        Ok(())
    }

    #[test]
    fn a_refusal_and_an_invalid_list_are_errors() {
        for (content, status, expected) in [
            (r#"{"message": "not allowed\n"}"#, 403, "not allowed"),
            ("no", 502, "dockerd answered with HTTP status 502"),
            ("[{", 200, "the list is not JSON"),
            ("{}", 200, "the list is not JSON"),
        ] {
            let found = names(content.as_bytes(), Some(status)).map_err(|error| error.to_string());
            assert_eq!(found, Err(expected.to_owned()));
        }
    }
}
