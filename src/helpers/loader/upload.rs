//! The upload of one archive to dockerd.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, poll};

use super::answer::{LoadAnswer, STALL};
use super::directory::Archive;
use super::record::Identity;
use super::zstd;
use crate::api::exchange::{Body, Exchange, ExchangeError};
use crate::messages::remedy::Remedy;
use crate::sys::clock::Clock;
use crate::sys::read::{self, Links};
use crate::sys::wait;

/// An archive that is being sent, and dockerd's answer.
pub struct Upload {
    /// The archive as it was found in its directory.
    pub archive: Archive,
    /// The identity of the file that was opened.
    pub identity: Identity,
    /// When the upload began.
    pub began: Instant,
    /// The file, to see how much of it has been read.
    file: File,
    exchange: Exchange,
    answer: LoadAnswer,
    /// When something was last written or read, on the loader's clock.
    moved: Duration,
}

impl Upload {
    /// Opens an archive and connects to the dockerd that listens on `socket`. `zstd` is whether
    /// the engine decompresses zstd; where it does not, such an archive is decompressed on the
    /// way. The error is that the file cannot be read, or dockerd cannot be reached.
    pub fn begin(archive: Archive, socket: &Path, zstd: bool, clock: &Clock) -> Result<Self> {
        let unreadable = "it cannot be read";
        // The file may have been replaced or removed since the directory was listed.
        let (file, metadata) = read::open(&archive.path, Links::Follow).context(unreadable)?;
        let source = file.try_clone().context(unreadable)?;
        let body = if !zstd && is_zstd(&file).context(unreadable)? {
            Body::Chunked(Box::new(zstd::Frames::new(source)))
        } else {
            Body::Sized(Box::new(source), metadata.len())
        };
        // quiet=0: the progress in the answer shows that a slow dockerd is at work.
        let exchange = Exchange::begin(socket, "POST", "/images/load?quiet=0", body)?;
        Ok(Self {
            archive,
            identity: Identity::of(&metadata),
            began: Instant::now(),
            file,
            exchange,
            answer: LoadAnswer::default(),
            moved: clock.now(),
        })
    }

    /// Writes and reads without blocking, if poll(2) found the connection `ready`. Returns whether
    /// the answer is complete. The error is that it never will be, or that dockerd has made no
    /// progress for [`STALL`].
    pub fn advance(&mut self, ready: bool, clock: &Clock) -> Result<bool, ExchangeError> {
        if ready {
            let mut content = Vec::new();
            if self.exchange.advance(&mut content)? {
                self.moved = clock.now();
            }
            self.answer.take(&content)?;
        } else if clock.now() >= self.stalls() {
            let error = anyhow!("dockerd made no progress for {} s", STALL.as_secs());
            return Err(error.into());
        }
        Ok(self.exchange.answer.is_complete())
    }

    /// The names of the images that were loaded, as dockerd wrote them, when the answer is
    /// complete. The error is the reason for which the load failed.
    pub fn loaded(&self) -> Result<Vec<String>> {
        self.answer.clone().images(self.exchange.answer.status())
    }

    /// When it is given up, if nothing is written or read before.
    fn stalls(&self) -> Duration {
        self.moved.saturating_add(STALL)
    }

    /// How many bytes of the file have been read, at most its size in the listing.
    pub fn sent(&mut self) -> u64 {
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

/// Waits until one of the uploads can go on, or has made no progress for [`STALL`], or for a time
/// that the clock chooses. Returns for each, in their order, whether it can go on. The error is
/// that of poll(2).
pub fn wait_for(uploads: &[Upload], clock: &Clock) -> Result<Vec<bool>> {
    let stalls = uploads.iter().map(Upload::stalls).min();
    let mut descriptors: Vec<PollFd<'_>> = uploads
        .iter()
        .map(|upload| PollFd::new(upload.exchange.as_fd(), upload.exchange.awaited()))
        .collect();
    match poll(&mut descriptors, wait::timeout(clock.timeout(stalls))) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => {
            return Err(errno)
                .context("cannot wait for dockerd, so images are missing")
                .remedy("see poll(2)");
        }
    }
    let ready = descriptors
        .iter()
        .map(|descriptor| descriptor.any().unwrap_or(true));
    Ok(ready.collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn clock() -> Clock {
        Clock::since(Instant::now())
    }
    use crate::helpers::loader::directory::Listing;

    /// A directory with the archive `a.tar`, and a socket on which a daemon would listen.
    struct Scene {
        directory: PathBuf,
        listener: UnixListener,
    }

    impl Scene {
        fn new(name: &str) -> Result<Self> {
            let name = format!("dind-upload-{name}-{}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir(&directory)?;
            fs::write(directory.join("a.tar"), "content")?;
            let listener = UnixListener::bind(directory.join("socket"))?;
            Ok(Self {
                directory,
                listener,
            })
        }

        fn archive(&self) -> Result<Archive> {
            let mut archives = Listing::read(&self.directory)?.archives;
            archives.pop().context("an archive")
        }

        fn begin(&self) -> Result<(Upload, UnixStream)> {
            let upload = Upload::begin(
                self.archive()?,
                &self.directory.join("socket"),
                true,
                &clock(),
            )?;
            Ok((upload, self.listener.accept()?.0))
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    #[test]
    fn an_archive_is_sent_and_its_images_are_named() -> Result<()> {
        let scene = Scene::new("whole")?;
        let (mut upload, mut daemon) = scene.begin()?;
        while upload.sent() < 7 {
            assert_eq!(wait_for(std::slice::from_ref(&upload), &clock())?, [true]);
            assert!(!upload.advance(true, &clock())?);
        }
        upload.advance(true, &clock())?;
        let line = r#"{"stream":"Loaded image: a:1\n"}"#;
        write!(
            daemon,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}",
            line.len()
        )?;
        while !upload.advance(true, &clock())? {}
        assert_eq!(upload.loaded()?, ["a:1"]);
        assert_eq!(upload.identity, scene.archive()?.identity);
        drop(upload);
        let mut request = String::new();
        daemon.read_to_string(&mut request)?;
        assert!(request.starts_with("POST /images/load?quiet=0 HTTP/1.1\r\n"));
        assert!(request.ends_with("\r\n\r\ncontent"), "{request}");
        Ok(())
    }

    #[test]
    fn a_daemon_that_ends_is_distinguished_from_one_that_refuses() -> Result<()> {
        let scene = Scene::new("closed")?;
        let (mut upload, daemon) = scene.begin()?;
        drop(daemon);
        let failed = loop {
            if let Err(error) = upload.advance(true, &clock()) {
                break error;
            }
        };
        assert!(matches!(failed, ExchangeError::Closed), "{failed}");
        let (mut upload, mut daemon) = scene.begin()?;
        write!(
            daemon,
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        )?;
        while !upload.advance(true, &clock())? {}
        let refused = upload.loaded().map_err(|error| error.to_string());
        assert_eq!(refused, Err("dockerd answered with HTTP status 403".into()));
        Ok(())
    }

    #[test]
    fn a_file_that_has_become_a_fifo_is_not_waited_for() -> Result<()> {
        let scene = Scene::new("fifo")?;
        let archive = scene.archive()?;
        fs::remove_file(&archive.path)?;
        mkfifo(&archive.path, Mode::S_IRWXU)?;
        let begun = Upload::begin(archive, &scene.directory.join("socket"), true, &clock());
        let refused = begun.map(drop).map_err(|error| format!("{error:#}"));
        assert_eq!(refused, Err("it cannot be read: not a regular file".into()));
        Ok(())
    }
}
