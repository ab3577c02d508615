//! The record of the archives that have been loaded, for later starts: a file in the data root,
//! which lives as long as the images do. If it is removed, everything is loaded again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::sys::read::{self, Links};
use crate::sys::write;

/// The largest record that is read, in bytes: more than any directory of archives needs.
const LARGEST: u64 = 16 << 20;

/// The properties by which an archive is recognized. ctime is compared as well as mtime: archives
/// of two versions of an image often have the same size (tar's blocks are of 10 KiB), and
/// reproducible builds give them the same mtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    size: u64,
    /// mtime and ctime, each in seconds and nanoseconds: stat(2).
    times: [i64; 4],
}

impl Identity {
    /// The identity of the file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            times: [
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ],
        }
    }

    fn read(value: &Value) -> Option<Self> {
        let times: Option<Vec<i64>> = value
            .get("times")?
            .as_array()?
            .iter()
            .map(Value::as_i64)
            .collect();
        Some(Self {
            size: value.get("size")?.as_u64()?,
            times: times?.try_into().ok()?,
        })
    }
}

/// The archives that have been loaded, and the images that were in each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record(BTreeMap<String, (Identity, Vec<String>)>);

impl Record {
    /// Reads the record at `path`. A file that is missing, broken, a symbolic link or larger than
    /// 16 MiB counts as an empty record.
    pub fn read(path: &Path) -> Self {
        let text = read::read(path, LARGEST, Links::Refuse).ok().flatten();
        text.map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(text).unwrap_or_default();
        let archives = value.get("archives").and_then(Value::as_object);
        let entries = archives.into_iter().flatten().filter_map(|(name, value)| {
            let images = value.get("images")?.as_array()?.iter();
            let images: Option<Vec<String>> = images
                .map(|image| Some(image.as_str()?.to_owned()))
                .collect();
            Some((name.clone(), (Identity::read(value)?, images?)))
        });
        Self(entries.collect())
    }

    fn to_text(&self) -> String {
        let entries = self.0.iter().map(|(name, (identity, images))| {
            let value = json!({"size": identity.size, "times": identity.times, "images": images});
            (name.clone(), value)
        });
        let archives: serde_json::Map<String, Value> = entries.collect();
        format!("{}\n", json!({ "archives": archives }))
    }

    /// The images in this archive, if it has been loaded and has not changed since.
    pub fn images(&self, name: &OsStr, identity: Identity) -> Option<&[String]> {
        let (known, images) = self.0.get(&key(name))?;
        (*known == identity).then_some(images)
    }

    /// Adds an archive that has been loaded, with its images.
    pub fn add(&mut self, name: &OsStr, identity: Identity, images: Vec<String>) {
        self.0.insert(key(name), (identity, images));
    }

    /// Removes all archives but those with these names.
    pub fn keep<'a>(&mut self, names: impl Iterator<Item = &'a OsStr>) {
        let names: Vec<String> = names.map(key).collect();
        self.0.retain(|name, _| names.contains(name));
    }

    /// Writes the record to `path`, with mode 0600, in place of an older one. The error names the
    /// path.
    pub fn write(&self, path: &Path) -> Result<()> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{} is not the path of a file", path.display());
        };
        let text = self.to_text();
        write::open_directory(directory)
            .and_then(|directory| write::replace(&directory, name, 0o600, text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A file's name of any bytes as text, which differs for different names.
fn key(name: &OsStr) -> String {
    name.as_bytes().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDENTITY: Identity = Identity {
        size: 7,
        times: [1, 2, -3, 4],
    };

    #[test]
    fn what_is_written_is_read() -> Result<()> {
        let directory = std::env::temp_dir().join(format!("dind-record-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let path = directory.join("record.json");
        let (odd, other) = (OsStr::from_bytes(b"a \xff\n.tar"), OsStr::new("b.tar"));
        let mut record = Record::default();
        record.add(odd, IDENTITY, vec!["busybox:latest".into()]);
        record.add(other, IDENTITY, Vec::new());
        record.write(&path)?;
        let mut read = Record::read(&path);
        assert_eq!(read, record);
        assert_eq!(
            read.images(odd, IDENTITY),
            Some(&["busybox:latest".into()][..])
        );
        let changed = Identity {
            size: 8,
            ..IDENTITY
        };
        assert_eq!(read.images(odd, changed), None);
        read.keep([other].into_iter());
        assert_eq!(read.images(odd, IDENTITY), None);
        assert_eq!(read.images(other, IDENTITY), Some(&[][..]));
        // Symbolic links are refused.
        let link = directory.join("link.json");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&path, &link)?;
        assert_eq!(Record::read(&link), Record::default());
        std::fs::remove_dir_all(&directory)?;
        Ok(())
    }

    #[test]
    fn a_broken_record_is_empty() {
        for text in [
            "",
            "{",
            "[]",
            r#"{"archives": []}"#,
            r#"{"archives": {"a.tar": {}}}"#,
            r#"{"archives": {"a.tar": {"size": -1, "times": [1, 2, 3, 4], "images": []}}}"#,
            r#"{"archives": {"a.tar": {"size": 1, "times": [1, 2, 3], "images": []}}}"#,
            r#"{"archives": {"a.tar": {"size": 1, "times": [1, 2, 3, 4], "images": [1]}}}"#,
        ] {
            assert_eq!(Record::parse(text.as_bytes()), Record::default(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: Vec<u8>) {
            let _ = Record::parse(&text);
        }
    }
}
