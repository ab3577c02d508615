//! Loads the archives of a directory into dockerd, several at once, and only those that it
//! does not have already. It runs in a child of PID 1's own, which a signal ends.

mod answer;
mod directory;
mod inventory;
mod record;
mod upload;
mod zstd;

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use tracing::{error, info, warn};

use crate::api::exchange::ExchangeError;
use crate::messages::progress::ProgressLine;
use crate::plan::images::Images;
use directory::{Archive, Listing};
use inventory::Inventory;
use record::Record;
use upload::Upload;

/// How many are loaded at once. More make dockerd's disk no faster, and each may need memory
/// for what is decompressed.
const AT_ONCE: usize = 4;

/// How many times dockerd may go while it is at work on archives. With `DIND_RESTART` another
/// comes, and what was not loaded by then is sent again.
const LOSSES: usize = 3;

/// How many names a message has.
const NAMED: usize = 5;

/// Loads what is not there yet, and says what it does. Each archive that cannot be loaded is
/// named; the error is that there were some. Where `strict`, the first of them is the error.
pub fn load(images: &Images, progress: ProgressLine) -> Result<()> {
    let directory = &images.directory;
    let listing = match Listing::read(directory) {
        Ok(listing) => listing,
        // The usual place; pre-start hooks might have made it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !images.asked => return Ok(()),
        Err(error) => bail!(
            "cannot read DIND_IMAGES={}: {error}; mount or make that directory",
            directory.display()
        ),
    };
    if !listing.others.is_empty() {
        let names = listing.others.iter().map(|name| name.to_string_lossy());
        warn!(
            directory = %directory.display(),
            "only *.tar, *.tar.gz and *.tar.zst are loaded: {} has also {}",
            directory.display(),
            shortened(names)
        );
    }
    let mut loader = Loader {
        images,
        record: Record::default(),
        recorded: true,
        progress,
        zstd: true,
        all: listing.archives.len().saturating_add(listing.broken.len()),
        done: 0,
        failed: 0,
        bytes: 0,
        bytes_done: 0,
    };
    for (path, reason) in listing.broken {
        loader.fail(&path, &anyhow!(reason))?;
    }
    if !listing.archives.is_empty() {
        loader.load(listing.archives)?;
    }
    if loader.failed > 0 {
        bail!(
            "{} of {} archives in {} could not be loaded: see above",
            loader.failed,
            loader.all,
            directory.display()
        );
    }
    Ok(())
}

/// The first few of them, and how many more there are.
fn shortened(names: impl ExactSizeIterator<Item = impl AsRef<str>>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut text = String::new();
    for name in names.take(NAMED) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(name.as_ref());
    }
    match more {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// What is known while archives are loaded.
struct Loader<'a> {
    images: &'a Images,
    record: Record,
    /// Whether that can be written, as far as is known.
    recorded: bool,
    progress: ProgressLine,
    /// Whether the engine decompresses zstd itself.
    zstd: bool,
    all: usize,
    done: usize,
    failed: usize,
    /// The sizes of what is to be loaded, and of what has been.
    bytes: u64,
    bytes_done: u64,
}

impl Loader<'_> {
    fn load(&mut self, mut archives: Vec<Archive>) -> Result<()> {
        self.record = Record::read(&self.images.record);
        self.record
            .keep(archives.iter().map(|archive| archive.name.as_os_str()));
        for _ in 0..LOSSES {
            archives = self.load_new(archives)?;
            if archives.is_empty() {
                return Ok(());
            }
            self.progress.clear();
            info!("dockerd has gone while it loaded images; they wait for the next one");
        }
        for archive in archives {
            let reason = anyhow!("dockerd has gone {LOSSES} times meanwhile; see its log");
            self.give_up(&archive, &reason)?;
        }
        Ok(())
    }

    /// Sends those that are not there. Returns those that dockerd has taken with it.
    fn load_new(&mut self, archives: Vec<Archive>) -> Result<Vec<Archive>> {
        let images = self.images;
        let inventory = match Inventory::ask(&images.socket) {
            Ok(inventory) => inventory,
            Err(ExchangeError::Closed) => return Ok(archives),
            Err(ExchangeError::Failed(error)) => bail!(
                "cannot ask dockerd for its images: {error:#}; no more are loaded, see its log"
            ),
        };
        self.zstd = inventory
            .api_version
            .is_none_or(|version| version >= zstd::KNOWN_FROM);
        let is_there = |archive: &Archive| {
            let known = self.record.images(&archive.name, archive.identity);
            known.is_some_and(|known| inventory.has_all(known))
        };
        let (old, new): (Vec<Archive>, Vec<Archive>) = archives.into_iter().partition(is_there);
        if !old.is_empty() {
            let names = old.iter().map(|archive| archive.name.to_string_lossy());
            info!(
                directory = %images.directory.display(),
                archives = self.all,
                loaded = old.len(),
                "{} of {} archives in {} are loaded already: {}",
                old.len(),
                self.all,
                images.directory.display(),
                shortened(names)
            );
        }
        self.done = self.done.saturating_add(old.len());
        self.bytes = new.iter().map(|archive| archive.size).sum();
        self.bytes_done = 0;
        self.send(new.into())
    }

    /// Sends them, so many at once. In one turn of its loop each upload moves a little.
    /// Returns those that dockerd has taken with it, and those that were still to come then.
    fn send(&mut self, mut waiting: VecDeque<Archive>) -> Result<Vec<Archive>> {
        let mut uploads: Vec<Upload> = Vec::new();
        let mut lost: Vec<Archive> = Vec::new();
        loop {
            while lost.is_empty()
                && uploads.len() < AT_ONCE
                && let Some(archive) = waiting.pop_front()
            {
                match Upload::begin(archive.clone(), &self.images.socket, self.zstd) {
                    Ok(upload) => uploads.push(upload),
                    Err(error) => self.give_up(&archive, &error)?,
                }
            }
            if uploads.is_empty() {
                lost.extend(waiting);
                return Ok(lost);
            }
            let ready = upload::wait_for(&uploads)?;
            let mut left = Vec::with_capacity(uploads.len());
            for (mut upload, ready) in uploads.into_iter().zip(ready) {
                match upload.advance(ready) {
                    Ok(false) => left.push(upload),
                    Ok(true) => self.finish(upload)?,
                    Err(ExchangeError::Closed) => lost.push(upload.archive),
                    Err(ExchangeError::Failed(error)) => self.give_up(&upload.archive, &error)?,
                }
            }
            uploads = left;
            self.show(&mut uploads);
        }
    }

    /// What was loaded is noted at once: a stop may come.
    fn finish(&mut self, upload: Upload) -> Result<()> {
        let (archive, loaded) = (&upload.archive, upload.loaded());
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => return self.give_up(archive, &error),
        };
        self.done = self.done.saturating_add(1);
        self.bytes_done = self.bytes_done.saturating_add(archive.size);
        self.progress.clear();
        let seconds = upload.began.elapsed().as_secs_f64();
        info!(
            archive = %archive.path.display(),
            images = loaded.join(", "),
            bytes = archive.size,
            seconds,
            "loaded {} from {}: {:.1} MB in {seconds:.1} s",
            shortened(loaded.iter()),
            archive.path.display(),
            megabytes(archive.size)
        );
        self.record.add(&archive.name, upload.identity, loaded);
        if self.recorded
            && let Err(error) = self.record.write(&self.images.record)
        {
            warn!(
                path = %self.images.record.display(),
                "{error:#}; the next start loads these images again"
            );
            self.recorded = false;
        }
        Ok(())
    }

    /// One that was to be sent, and need not be any more.
    fn give_up(&mut self, archive: &Archive, reason: &anyhow::Error) -> Result<()> {
        self.bytes = self.bytes.saturating_sub(archive.size);
        self.fail(&archive.path, reason)
    }

    /// One that cannot be loaded: it is said, and the others go on; or it is the end.
    fn fail(&mut self, path: &Path, reason: &anyhow::Error) -> Result<()> {
        self.progress.clear();
        let message = format!(
            "cannot load {}: {reason:#}; replace it or remove it",
            path.display()
        );
        if self.images.strict {
            bail!(message);
        }
        error!(archive = %path.display(), error = format!("{reason:#}"), "{message}");
        self.done = self.done.saturating_add(1);
        self.failed = self.failed.saturating_add(1);
        Ok(())
    }

    fn show(&mut self, uploads: &mut [Upload]) {
        let (done, all, bytes, bytes_done) = (self.done, self.all, self.bytes, self.bytes_done);
        self.progress.show(|| {
            let sent: u64 = uploads.iter_mut().map(Upload::sent).sum();
            format!(
                "images: {done} of {all}, {:.0} of {:.0} MB",
                megabytes(bytes_done.saturating_add(sent)),
                megabytes(bytes)
            )
        });
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_a_few() {
        let names = ["1", "2", "3", "4", "5", "6", "7"];
        assert_eq!(shortened(names.iter().take(0)), "");
        assert_eq!(shortened(names.iter().take(2)), "1, 2");
        assert_eq!(shortened(names.iter()), "1, 2, 3, 4, 5 and 2 more");
    }
}
