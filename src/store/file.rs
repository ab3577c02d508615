//! A store in one file, which has one generation and is mounted by a loop device.
//!
//! ```text
//! an image of erofs with a store in it: format, current, generations/N, layers
//! the manifest of generation N
//! the length of the image and of the manifest, 8 bytes each, the lowest byte first
//! SHA-256 of the image
//! SHA-256 of the manifest and of the three fields before
//! "dind-store-file1"
//! ```
//!
//! What identifies it stands at its end, so that a file that is cut off is known before it is mounted.
//! Nothing of this needs a lock: who saves makes another file and renames it, and the loop device keeps
//! the old one for those who use it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use ring::digest::{self, SHA256};

use super::disk::{Form, Generation, MANIFEST_LIMIT, MOUNT_POINT, Store};
use super::manifest::Manifest;
use crate::messages::remedy::Remedy;
use crate::sys::read::{self, Links};

/// The last bytes of the file.
const MAGIC: &[u8; 16] = b"dind-store-file1";
/// The same without the version.
const ANY_VERSION: &[u8] = b"dind-store-file";

/// The lengths and the image's sum.
const FIELDS: usize = 8 + 8 + SUM;
const SUM: usize = 32;
/// All behind the manifest.
const END: usize = FIELDS + SUM + MAGIC.len();

/// Where erofs has its magic number, and that number: `EROFS_SUPER_OFFSET` and
/// `EROFS_SUPER_MAGIC_V1` of the kernel's fs/erofs/erofs_fs.h.
const EROFS_AT: u64 = 1024;
const EROFS: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();

/// What the user can do about a file that is no store.
const ANOTHER: &str = "set another DIND_STORE";
/// What the user can do about one that was a store.
const AGAIN: &str = "copy the file again, or save it again";

/// A file that is a store.
#[derive(Debug)]
pub struct StoreFile {
    /// What its generation says of itself.
    pub manifest: Manifest,
    /// The file, open for reading.
    pub file: File,
    /// The length of the image.
    image: u64,
    /// The SHA-256 of the image when it was made.
    sum: [u8; SUM],
}

impl StoreFile {
    /// Opens the store at `path` and reads its end. `None` where there is no file. The error is that
    /// it is another file, cut off or damaged at its end. The image is not looked at.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let shown = path.display();
        let failed = || format!("cannot read {shown}");
        let (file, metadata) = match read::open(path, Links::Follow) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.with_context(failed).remedy(ANOTHER)?,
        };
        let length = metadata.len();
        let mut end = [0; END];
        let at = length.checked_sub(END.try_into()?);
        if let Some(at) = at {
            file.read_exact_at(&mut end, at)
                .with_context(failed)
                .remedy(ANOTHER)?;
        }
        let (fields, rest) = end.split_at(FIELDS);
        let (own, magic) = rest.split_at(SUM);
        if magic != MAGIC {
            let mut found = [0; EROFS.len()];
            let is_erofs = file.read_exact_at(&mut found, EROFS_AT).is_ok() && found == EROFS;
            return Err(match is_erofs {
                _ if magic.starts_with(ANY_VERSION) => {
                    anyhow!("{shown} is a store of another version of dind")
                        .remedy("save it again with this one")
                }
                true => anyhow!("{shown} is cut off: its end is missing").remedy(AGAIN),
                false => anyhow!("{shown} is not a store of dind's").remedy(ANOTHER),
            });
        }
        let damaged = || anyhow!("{shown} is damaged at its end").remedy(AGAIN);
        let (lengths, sum) = fields.split_at(FIELDS - SUM);
        let (image, manifest) = lengths.split_at(8);
        let image = u64::from_le_bytes(image.try_into()?);
        let count = u64::from_le_bytes(manifest.try_into()?);
        let is_whole = count <= MANIFEST_LIMIT && image.checked_add(count) == at;
        ensure!(is_whole, damaged());
        let mut text = vec![0; count.try_into()?];
        file.read_exact_at(&mut text, image)
            .with_context(failed)
            .remedy(AGAIN)?;
        ensure!(own == sum_of(&[&text, fields]), damaged());
        let text = String::from_utf8(text).map_err(|_| damaged())?;
        let manifest = Manifest::parse(&text).with_context(|| format!("cannot use {shown}"))?;
        Ok(Some(Self {
            manifest,
            file,
            image,
            sum: sum.try_into()?,
        }))
    }

    /// Its generation, as it is where the file is mounted. The open file is all that it needs: nobody
    /// writes to it.
    fn generation(self, path: &Path) -> Generation {
        let number = self.manifest.generation;
        Generation {
            path: mounted(number),
            manifest: self.manifest,
            store: path.to_owned(),
            form: Form::File,
            held: self.file,
        }
    }

    /// Whether the image is what it was when it was made. Reads all of it.
    pub fn is_whole(&self) -> io::Result<bool> {
        Ok(sum_of_file(&self.file, self.image)? == self.sum)
    }
}

/// Locks the current generation of the store at `path`, of either form. `None` where there is none.
pub fn hold_current(path: &Path) -> Result<Option<Generation>> {
    match Form::of(path) {
        Form::File => Ok(StoreFile::open(path)?.map(|store| store.generation(path))),
        Form::Directory => Store::open(path)?.map_or(Ok(None), |store| store.hold_current()),
    }
}

/// Whether a generation is still the current one of its store.
pub fn is_current(generation: &Generation) -> Result<bool> {
    match generation.form {
        Form::File => {
            let (ours, now) = (generation.held.metadata(), fs::metadata(&generation.store));
            let of = |found: &Metadata| (found.dev(), found.ino());
            Ok(matches!((ours, now), (Ok(ours), Ok(now)) if of(&ours) == of(&now)))
        }
        Form::Directory => {
            let store = Store {
                path: generation.store.clone(),
            };
            Ok(store.current()? == Some(generation.manifest.generation))
        }
    }
}

/// Locks this generation of the store at `path`, of either form. `None` where it is not there.
pub fn hold(path: &Path, number: u64) -> Result<Option<Generation>> {
    match Form::of(path) {
        Form::File => {
            let held = hold_current(path)?;
            Ok(held.filter(|held| held.manifest.generation == number))
        }
        Form::Directory => Store::open(path)?.map_or(Ok(None), |store| store.hold(number)),
    }
}

/// The directory of a generation in a store that is mounted.
fn mounted(number: u64) -> PathBuf {
    Path::new(MOUNT_POINT)
        .join("generations")
        .join(number.to_string())
}

/// Makes a file that has an image the store with this manifest: writes what comes behind the image.
pub fn finish(file: &mut File, manifest: &Manifest) -> io::Result<()> {
    let image = file.seek(SeekFrom::End(0))?;
    let sum = sum_of_file(file, image)?;
    let text = manifest.print().into_bytes();
    let count = u64::try_from(text.len()).map_err(io::Error::other)?;
    let mut fields = Vec::with_capacity(FIELDS);
    fields.extend(image.to_le_bytes());
    fields.extend(count.to_le_bytes());
    fields.extend(sum);
    let own = sum_of(&[&text, &fields]);
    file.seek(SeekFrom::Start(image))?;
    file.write_all(&[&text[..], &fields, &own, MAGIC].concat())
}

fn sum_of(parts: &[&[u8]]) -> [u8; SUM] {
    let mut context = digest::Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    sum(context)
}

/// The sum of the first `length` bytes of a file.
fn sum_of_file(mut file: &File, length: u64) -> io::Result<[u8; SUM]> {
    file.seek(SeekFrom::Start(0))?;
    let mut left = file.take(length);
    let mut context = digest::Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = left.read(&mut buffer)?;
        match buffer.get(..count) {
            Some([]) | None => return Ok(sum(context)),
            Some(read) => context.update(read),
        }
    }
}

fn sum(context: digest::Context) -> [u8; SUM] {
    let mut sum = [0; SUM];
    // A digest of SHA-256 has that length.
    sum.iter_mut()
        .zip(context.finish().as_ref())
        .for_each(|(to, from)| *to = *from);
    sum
}
