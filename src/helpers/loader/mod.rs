//! The image loader: a child of PID 1 that loads the archives of a directory into dockerd,
//! several at a time, and only those whose images dockerd does not have. A signal ends it.

mod answer;
mod directory;
mod inventory;
mod record;
mod upload;
mod zstd;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use tracing::{error, info, warn};

use crate::api::exchange::ExchangeError;
use crate::messages::fault::Fault;
use crate::messages::progress::ProgressLine;
use crate::messages::remedy::Remedy;
use crate::plan::images::Images;
use crate::sys::clock::Clock;
use directory::{Archive, Listing};
use inventory::Inventory;
use record::Record;
use upload::Upload;

/// How many archives are loaded at a time. More do not make dockerd's disk faster, and each may
/// need memory for decompression.
const AT_ONCE: usize = 4;

/// What the user can do about an archive that cannot be read or that dockerd refuses.
const ARCHIVE: &str = "replace it or remove it";

/// The same where dockerd fails.
const DOCKERD: &str = "read dockerd's log, and start the container again";

/// The same where it is not known which of them fails.
const EITHER: &str = "replace it or remove it, or read dockerd's log";

/// How many times dockerd may end while it loads archives. With `DIND_RESTART` another one
/// starts, and the archives that were not loaded are sent to that.
const LOSSES: usize = 3;

/// The most names in a message.
const NAMED: usize = 5;

/// Loads the archives that are new to dockerd, and logs what it does. An archive that cannot be
/// loaded is logged, and the error at the end has the number of these. With `images.strict`, the
/// first one is the error.
pub fn load(images: &Images, progress: ProgressLine) -> Result<()> {
    let directory = &images.directory;
    let listing = match Listing::read(directory) {
        Ok(listing) => listing,
        // The default directory may be missing. It is looked for all the same, as a pre-start
        // hook may have made it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !images.asked => return Ok(()),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot read DIND_IMAGES={}", directory.display()))
                .remedy("mount or make that directory");
        }
    };
    if !listing.others.is_empty() {
        let names = listing.others.iter().map(|name| name.to_string_lossy());
        warn!(
            directory = %directory.display(),
            "only *.tar, *.tar.gz and *.tar.zst are loaded; {} also contains {}",
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
        loader.fail(&path, &anyhow!(reason), ARCHIVE)?;
    }
    if !listing.archives.is_empty() {
        loader.load(listing.archives)?;
    }
    if loader.failed > 0 {
        return Err(anyhow!(
            "{} of {} archives in {} could not be loaded",
            loader.failed,
            loader.all,
            directory.display()
        )
        .remedy("see the errors above"));
    }
    Ok(())
}

/// The first [`NAMED`] names, and the number of the others.
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

/// The state of the image loader.
struct Loader<'a> {
    images: &'a Images,
    record: Record,
    /// Whether the record can be written: false after the first error.
    recorded: bool,
    progress: ProgressLine,
    /// Whether the engine decompresses zstd itself.
    zstd: bool,
    all: usize,
    done: usize,
    failed: usize,
    /// The size of all archives that are to be loaded, and of those that have been, in bytes.
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
            info!("dockerd ended while it loaded images; the next one gets them again");
        }
        for archive in archives {
            let reason = anyhow!("dockerd ended {LOSSES} times meanwhile");
            self.give_up(&archive, &reason, DOCKERD)?;
        }
        Ok(())
    }

    /// Sends the archives that are new to dockerd. Returns those that it had not loaded when it
    /// ended.
    fn load_new(&mut self, archives: Vec<Archive>) -> Result<Vec<Archive>> {
        let images = self.images;
        let inventory = match Inventory::ask(&images.socket) {
            Ok(inventory) => inventory,
            Err(ExchangeError::Closed) => return Ok(archives),
            Err(ExchangeError::Failed(error)) => {
                let error = error.context("cannot list dockerd's images");
                return Err(error.remedy("no more are loaded, see dockerd's log"));
            }
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

    /// Sends archives, [`AT_ONCE`] at a time. Each turn of the loop moves a part of each upload.
    /// Returns those that dockerd had not loaded when it ended.
    fn send(&mut self, mut waiting: VecDeque<Archive>) -> Result<Vec<Archive>> {
        let clock = Clock::since(Instant::now());
        let mut uploads: Vec<Upload> = Vec::new();
        let mut lost: Vec<Archive> = Vec::new();
        loop {
            while lost.is_empty()
                && uploads.len() < AT_ONCE
                && let Some(archive) = waiting.pop_front()
            {
                match Upload::begin(archive.clone(), &self.images.socket, self.zstd, &clock) {
                    Ok(upload) => uploads.push(upload),
                    Err(error) => self.give_up(&archive, &error, EITHER)?,
                }
            }
            if uploads.is_empty() {
                lost.extend(waiting);
                return Ok(lost);
            }
            let ready = upload::wait_for(&uploads, &clock)?;
            let mut left = Vec::with_capacity(uploads.len());
            for (mut upload, ready) in uploads.into_iter().zip(ready) {
                match upload.advance(ready, &clock) {
                    Ok(false) => left.push(upload),
                    Ok(true) => self.finish(upload)?,
                    Err(ExchangeError::Closed) => lost.push(upload.archive),
                    Err(ExchangeError::Failed(error)) => {
                        self.give_up(&upload.archive, &error, EITHER)?;
                    }
                }
            }
            uploads = left;
            self.show(&mut uploads);
        }
    }

    /// Takes an upload whose answer is complete. Its images are recorded at once, as a stop may
    /// end this process at any time.
    fn finish(&mut self, upload: Upload) -> Result<()> {
        let (archive, loaded) = (&upload.archive, upload.loaded());
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => return self.give_up(archive, &error, ARCHIVE),
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
            let fault = Fault::from(error).consequence("the next start loads these images again");
            warn!(path = %self.images.record.display(), "{fault}");
            self.recorded = false;
        }
        Ok(())
    }

    /// Takes an archive that counts in `bytes` and cannot be loaded.
    fn give_up(&mut self, archive: &Archive, reason: &anyhow::Error, remedy: &str) -> Result<()> {
        self.bytes = self.bytes.saturating_sub(archive.size);
        self.fail(&archive.path, reason, remedy)
    }

    /// Logs that an archive cannot be loaded. With `strict`, that is the error instead.
    fn fail(&mut self, path: &Path, reason: &anyhow::Error, remedy: &str) -> Result<()> {
        self.progress.clear();
        let reason = Fault::from(reason).message;
        let fault = Fault::failure(format!("cannot load {}: {reason}", path.display()));
        let fault = fault.remedy(remedy);
        if self.images.strict {
            return Err(fault.into());
        }
        error!(archive = %path.display(), error = reason, "{fault}");
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

#[expect(clippy::cast_precision_loss, reason = "for display only")]
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
