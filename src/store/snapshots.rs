//! Which directories of layers never change again, by what BuildKit and containerd wrote down.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::bolt::Bucket;

/// Whether a directory of a layer is still written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The content of an image's layer or of a build step: never written again.
    Committed,
    /// The content of a container, of a `RUN --mount=type=cache` or of a build context.
    Active,
    /// A read-only look at another one, with no content of its own.
    View,
}

/// The kind of each directory in `overlay2` that BuildKit knows, by `buildkit/snapshots.db`:
/// `builder/builder-next/adapters/snapshot/snapshot.go` of moby. Layers of images that were not
/// built here are not in it.
///
/// Fails if a name is not text.
pub fn of_buildkit(root: &Bucket<'_>) -> Result<BTreeMap<String, Kind>> {
    let mut directories = BTreeMap::new();
    for (key, bucket) in root.buckets() {
        // A committed snapshot has the name of the directory that it was made in.
        if let Some(directory) = bucket.value(b"committed") {
            directories.insert(text(directory)?, Kind::Committed);
        } else if bucket.value(b"parent").is_some() && bucket.value(b"iscommitted").is_none() {
            directories.insert(text(key)?, Kind::Active);
        }
    }
    Ok(directories)
}

/// The kind of each directory in `snapshots`, by `metadata.db` of containerd's overlayfs
/// snapshotter: `core/snapshots/storage/bolt.go` of containerd.
///
/// Fails if the database has another form than containerd 1.4 to 2.3 give it.
pub fn of_containerd(root: &Bucket<'_>) -> Result<BTreeMap<u64, Kind>> {
    let mut directories = BTreeMap::new();
    let Some(snapshots) = root
        .bucket(b"v1")
        .and_then(|version| version.bucket(b"snapshots"))
    else {
        // Nothing was ever unpacked.
        return Ok(directories);
    };
    for (key, bucket) in snapshots.buckets() {
        let name = || format!("snapshot {}", String::from_utf8_lossy(key));
        let id = bucket.value(b"id").and_then(unsigned);
        let id = id.with_context(|| format!("{} has no id", name()))?;
        // `Kind` of core/snapshots/snapshotter.go.
        let kind = match bucket.value(b"kind") {
            Some([1]) => Kind::View,
            Some([2]) => Kind::Active,
            Some([3]) => Kind::Committed,
            _ => bail!("{} has no known kind", name()),
        };
        directories.insert(id, kind);
    }
    Ok(directories)
}

/// The number that Go's `binary.PutUvarint` wrote: seven bits a byte, the lowest first.
fn unsigned(bytes: &[u8]) -> Option<u64> {
    let (last, rest) = bytes.split_last()?;
    let is_whole = *last < 0x80 && rest.iter().all(|byte| *byte >= 0x80);
    let fits = bytes.len() < 10;
    (is_whole && fits).then(|| {
        let digits = bytes.iter().rev();
        digits.fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
    })
}

fn text(bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes).context("a snapshot's name is not text")?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::bolt;
    use super::*;

    /// After a build of five steps with a cache mount and a container: 26.1 with overlay2.
    const BUILDKIT: &[u8] = include_bytes!("../../tests/fixtures/store/buildkit-snapshots.db");
    /// The same with 28.5 and containerd's image store.
    const OVERLAYFS: &[u8] = include_bytes!("../../tests/fixtures/store/overlayfs-metadata.db");

    #[test]
    fn what_buildkit_has_committed_is_told_from_what_it_writes_to() -> Result<()> {
        let root = bolt::read(BUILDKIT)?;
        let kinds = of_buildkit(&root)?;
        let of_kind = |kind| {
            let of = kinds.iter().filter(|(_, other)| **other == kind);
            of.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(
            of_kind(Kind::Committed),
            [
                "a3gc86bq06xe0ouiievv0fmgy",
                "jznrc88grfgy1ct1s8qko0n3g",
                "w8ncp1rtkwx3aq0wggjeyx77b",
                "zoyhhx1dc7jft18minp33oine",
            ]
        );
        assert_eq!(
            of_kind(Kind::Active),
            [
                "5q719xi9043iuqnfty1afhzzw",
                "di2uma42ri9mrhz2gwlzw2klb",
                "mgblvfrxg1u2lt07h0qkxpuyn",
                "tsr45b6huowcj75n1fr80vha1",
                "zi3jf5tkaoalgou1bu1tm7ua2",
            ]
        );
        Ok(())
    }

    #[test]
    fn what_containerd_has_committed_is_told_from_what_is_written_to() -> Result<()> {
        let root = bolt::read(OVERLAYFS)?;
        let kinds = of_containerd(&root)?;
        let of_kind = |kind| {
            let of = kinds.iter().filter(|(_, other)| **other == kind);
            of.map(|(id, _)| *id).collect::<Vec<_>>()
        };
        // 20 is what a container adds to its image, below what it writes itself: 21.
        assert_eq!(
            of_kind(Kind::Committed),
            [1, 5, 7, 8, 9, 16, 17, 18, 19, 20]
        );
        assert_eq!(of_kind(Kind::Active), [2, 3, 4, 6, 10, 21]);
        assert_eq!(of_kind(Kind::View), [11, 12, 13, 14]);
        Ok(())
    }

    #[test]
    fn numbers_are_those_of_go() {
        assert_eq!(unsigned(&[0]), Some(0));
        assert_eq!(unsigned(&[0xac, 0x02]), Some(300));
        assert_eq!(unsigned(&[0xac]), None);
        assert_eq!(unsigned(&[0x01, 0x02]), None);
        assert_eq!(unsigned(&[]), None);
    }

    #[test]
    fn a_damaged_database_is_an_error_or_less() {
        for length in (0..OVERLAYFS.len()).step_by(1000) {
            let cut = OVERLAYFS.get(..length).unwrap_or_default();
            if let Ok(root) = bolt::read(cut) {
                let _ = of_containerd(&root);
            }
        }
        assert!(bolt::read(b"").is_err());
        assert!(bolt::read(&[0; 65536]).is_err());
    }
}
