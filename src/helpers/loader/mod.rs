//! Loads the archives of a directory into dockerd, several at once, and only those that it
//! does not have already. It runs in a child of PID 1's own, which a signal ends.

mod directory;
mod record;
mod zstd;

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, poll};
use serde_json::Value;
use tracing::{debug, error, info, warn};

use crate::api::exchange::{Body, Exchange, ExchangeError};
use crate::messages::progress::ProgressLine;
use crate::plan::images::Images;
use crate::sys::read::{self, Links};
use crate::sys::wait;
use directory::{Archive, Listing};
use record::{Identity, Record};

/// How many are loaded at once. More make dockerd's disk no faster, and each may need memory
/// for what is decompressed.
const AT_ONCE: usize = 4;

/// How long dockerd may take nothing and say nothing of a load. While it unpacks layers it
/// tells how far it is.
const STALL: Duration = Duration::from_secs(600);

/// How many times dockerd may go while it is at work on archives. With `DIND_RESTART` another
/// comes, and what was not loaded by then is sent again.
const LOSSES: usize = 3;

/// More than the list of any daemon's images.
const LONGEST_LIST: usize = 64 << 20;

/// More than any line that dockerd writes of a load.
const LONGEST_LINE: usize = 1 << 20;

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
        let there = match There::ask(&images.socket) {
            Ok(there) => there,
            Err(ExchangeError::Closed) => return Ok(archives),
            Err(ExchangeError::Failed(error)) => bail!(
                "cannot ask dockerd for its images: {error:#}; no more are loaded, see its log"
            ),
        };
        self.zstd = there
            .api_version
            .is_none_or(|version| version >= zstd::KNOWN_FROM);
        let is_there = |archive: &Archive| {
            let known = self.record.images(&archive.name, archive.identity);
            known.is_some_and(|known| known.iter().all(|image| there.images.contains(image)))
        };
        let (old, new): (Vec<Archive>, Vec<Archive>) = archives.into_iter().partition(is_there);
        if !old.is_empty() {
            let names = old.iter().map(|archive| archive.name.to_string_lossy());
            info!(
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
            let ready = ready(&uploads)?;
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
        info!(
            "loaded {} from {}: {:.1} MB in {:.1} s",
            shortened(loaded.iter()),
            archive.path.display(),
            megabytes(archive.size),
            upload.began.elapsed().as_secs_f64()
        );
        self.record.add(&archive.name, upload.identity, loaded);
        if self.recorded
            && let Err(error) = self.record.write(&self.images.record)
        {
            warn!("{error:#}; the next start loads these images again");
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
        error!("{message}");
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

/// Which of the uploads can go on. Those that have done nothing for too long can, too, for
/// that.
fn ready(uploads: &[Upload]) -> Result<Vec<bool>> {
    let quiet = uploads.iter().map(|upload| upload.moved.elapsed()).max();
    let left = STALL.saturating_sub(quiet.unwrap_or_default());
    let mut descriptors: Vec<PollFd<'_>> = uploads
        .iter()
        .map(|upload| PollFd::new(upload.exchange.as_fd(), upload.exchange.awaited()))
        .collect();
    match poll(&mut descriptors, wait::timeout(Some(left))) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => {
            let desc = errno.desc();
            bail!("cannot wait for dockerd, so images are missing: {desc}; see poll(2)");
        }
    }
    let ready = descriptors
        .iter()
        .map(|descriptor| descriptor.any().unwrap_or(true));
    Ok(ready.collect())
}

/// What dockerd has before anything is loaded.
struct There {
    /// The names and the ids of its images, in the words of its answers to loads.
    images: BTreeSet<String>,
    api_version: Option<(u32, u32)>,
}

impl There {
    fn ask(socket: &Path) -> Result<Self, ExchangeError> {
        // Those below other images too: one that was loaded without a name may be that now.
        let mut exchange = Exchange::begin(socket, "GET", "/images/json?all=1", Body::None)?;
        let mut content = Vec::new();
        while !exchange.answer.is_complete() {
            let descriptor = PollFd::new(exchange.as_fd(), exchange.awaited());
            match poll(&mut [descriptor], wait::timeout(Some(STALL))) {
                Ok(0) => return Err(anyhow!("no answer in {} s", STALL.as_secs()).into()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(anyhow::Error::new(errno).context("poll").into()),
            }
            exchange.advance(&mut content)?;
            if content.len() > LONGEST_LIST {
                return Err(anyhow!("its list is longer than {LONGEST_LIST} bytes").into());
            }
        }
        let value: Value = serde_json::from_slice(&content).unwrap_or_default();
        let list = match exchange.answer.status() {
            Some(200) => value.as_array().context("its list is not JSON")?,
            status => return Err(anyhow!(refusal(&value, status)).into()),
        };
        let images = list.iter().flat_map(|image| {
            let tags = image.get("RepoTags").and_then(Value::as_array);
            let tags = tags.into_iter().flatten();
            tags.chain(image.get("Id")).filter_map(Value::as_str)
        });
        Ok(Self {
            images: images.map(str::to_owned).collect(),
            api_version: exchange.answer.api_version(),
        })
    }
}

/// What the daemon says where it does not do what it was asked for.
fn refusal(value: &Value, status: Option<u16>) -> String {
    match value.get("message").and_then(Value::as_str) {
        Some(message) => message.trim().to_owned(),
        None => format!(
            "the daemon's answer has status {}",
            status.unwrap_or_default()
        ),
    }
}

/// An archive on its way.
struct Upload {
    archive: Archive,
    /// The file, to see how much of it has been read.
    file: File,
    /// That of the file that is read.
    identity: Identity,
    exchange: Exchange,
    /// The line that has not come to its end.
    line: Vec<u8>,
    said: Said,
    began: Instant,
    /// When something was last written or read.
    moved: Instant,
}

impl Upload {
    fn begin(archive: Archive, socket: &Path, zstd: bool) -> Result<Self> {
        let unreadable = "it cannot be read";
        // It may be another file by now, or none.
        let (file, metadata) = read::open(&archive.path, Links::Follow).context(unreadable)?;
        let source = file.try_clone().context(unreadable)?;
        let body = if !zstd && is_zstd(&file).context(unreadable)? {
            Body::Chunked(Box::new(zstd::Frames::new(source)))
        } else {
            Body::Sized(Box::new(source), metadata.len())
        };
        // Not quiet: so it is seen that dockerd is at work, though it takes its time.
        let exchange = Exchange::begin(socket, "POST", "/images/load?quiet=0", body)?;
        let now = Instant::now();
        Ok(Self {
            identity: Identity::of(&metadata),
            archive,
            file,
            exchange,
            line: Vec::new(),
            said: Said::default(),
            began: now,
            moved: now,
        })
    }

    /// Moves what can be moved. Whether the answer is there.
    fn advance(&mut self, ready: bool) -> Result<bool, ExchangeError> {
        if ready {
            let mut content = std::mem::take(&mut self.line);
            if self.exchange.advance(&mut content)? {
                self.moved = Instant::now();
            }
            self.line = self.said.take(content);
            if self.line.len() > LONGEST_LINE {
                let error = anyhow!("dockerd says more than {LONGEST_LINE} bytes in one line");
                return Err(error.into());
            }
        } else if self.moved.elapsed() >= STALL {
            let error = anyhow!("dockerd has done nothing with it for {} s", STALL.as_secs());
            return Err(error.into());
        }
        Ok(self.exchange.answer.is_complete())
    }

    /// The images that were in it, in dockerd's words.
    fn loaded(&self) -> Result<Vec<String>> {
        let mut said = self.said.clone();
        said.line(&self.line);
        if let Some(error) = said.error {
            // The name is that of a file of an archive, unpacked by dockerd.
            if error.contains("/docker-import-") && error.ends_with("no such file or directory") {
                bail!("there is no image in it, or not all of one ({error})");
            }
            bail!(error);
        }
        match self.exchange.answer.status() {
            Some(200) if said.images.is_empty() => bail!("there is no image in it"),
            Some(200) => Ok(said.images),
            status => bail!(refusal(&Value::Null, status)),
        }
    }

    /// How much of the file has been read.
    fn sent(&mut self) -> u64 {
        self.file
            .stream_position()
            .unwrap_or_default()
            .min(self.archive.size)
    }
}

fn is_zstd(file: &File) -> io::Result<bool> {
    let mut beginning = [0; 4];
    match file.read_exact_at(&mut beginning, 0) {
        Ok(()) => Ok(zstd::is_zstd(beginning)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// What dockerd has said of a load: JSON, a line for each thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    /// The names of images that are there now, or the ids of those without.
    images: Vec<String>,
    /// Why it failed.
    error: Option<String>,
}

impl Said {
    /// Reads the lines; what is behind the last of them is returned.
    fn take(&mut self, mut text: Vec<u8>) -> Vec<u8> {
        let Some(end) = memchr::memrchr(b'\n', &text) else {
            return text;
        };
        let rest = text.split_off(end.saturating_add(1));
        for line in text.split(|byte| *byte == b'\n') {
            self.line(line);
        }
        rest
    }

    fn line(&mut self, line: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let detail = value
            .get("errorDetail")
            .and_then(|detail| detail.get("message"));
        let error = text(detail)
            .or_else(|| text(value.get("error")))
            .or_else(|| text(value.get("message")));
        if let Some(error) = error {
            self.error.get_or_insert_with(|| error.trim().to_owned());
        }
        let stream = value
            .get("stream")
            .and_then(Value::as_str)
            .unwrap_or_default();
        for line in stream.lines() {
            let named = line.strip_prefix("Loaded image: ");
            if let Some(image) = named.or_else(|| line.strip_prefix("Loaded image ID: ")) {
                self.images.push(image.trim().to_owned());
            } else if line.starts_with("Error unpacking image") {
                // Of containerd's store, which says so and goes on (`LoadImage` in moby's
                // daemon/containerd/image_exporter.go).
                self.error.get_or_insert_with(|| line.to_owned());
            } else if !line.is_empty() {
                debug!("dockerd says: {line}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dockerd_says_of_a_load_is_understood() {
        // By 26.1 and 28.5, for archives of their own and for broken ones.
        let text = "{\"status\":\"Loading layer\",\"progressDetail\":{\"current\":1,\"total\":2},\"id\":\"a\"}\r\n\
            {\"stream\":\"Loaded image: busybox:latest\\n\"}\r\n\
            {\"stream\":\"The image b:1 already exists, renaming the old one with ID x to empty string\\n\"}\r\n\
            {\"stream\":\"Loaded image ID: sha256:1\\nLoaded image ID: sha256:2\\n\"}\r\n\
            {\"errorDetail\":{\"message\":\"unexpected EOF\\n\"},\"error\":\"unexpected EOF\"}\r\n{\"mess";
        for size in 1..text.len() {
            let (mut said, mut rest) = (Said::default(), Vec::new());
            for part in text.as_bytes().chunks(size) {
                rest.extend(part);
                rest = said.take(rest);
            }
            assert_eq!(rest, b"{\"mess");
            assert_eq!(said.images, ["busybox:latest", "sha256:1", "sha256:2"]);
            assert_eq!(said.error.as_deref(), Some("unexpected EOF"));
        }
    }

    #[test]
    fn a_refusal_and_a_failed_unpacking_are_errors() {
        for (line, expected) in [
            (r#"{"message":"not allowed"}"#, "not allowed"),
            (
                r#"{"stream":"Loaded image: a:1\nError unpacking image a:1: no space\n"}"#,
                "Error unpacking image a:1: no space",
            ),
        ] {
            let mut said = Said::default();
            said.line(line.as_bytes());
            assert_eq!(said.error.as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_message_names_a_few() {
        let names = ["1", "2", "3", "4", "5", "6", "7"];
        assert_eq!(shortened(names.iter().take(0)), "");
        assert_eq!(shortened(names.iter().take(2)), "1, 2");
        assert_eq!(shortened(names.iter()), "1, 2, 3, 4, 5 and 2 more");
    }
}
