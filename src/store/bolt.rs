//! Reads a bolt database, in which containerd and BuildKit keep which directory of layers is what.
//!
//! The format is that of bbolt's `page.go`, `bucket.go` and `db.go`: pages of one size, the first
//! two of which are meta pages; a B+ tree of branch and leaf pages; a bucket is a value that names
//! the root page of another tree, or has that page within itself. Numbers are in the byte order of
//! the machine that wrote them, and only little-endian files are read.
//!
//! Nothing here trusts the file: an offset beyond its end, a page that is its own child, or more
//! elements than there can be, is an error and no panic, and the time is bounded by the file's size.

use std::cell::Cell;
use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

/// `magic` of bbolt's `db.go`.
const MAGIC: u64 = 0xED0C_DAED;
/// `version` of bbolt's `db.go`.
const VERSION: u64 = 2;
/// The length of a page's header: id, flags, count, overflow.
const PAGE_HEADER: usize = 16;
/// The length of an element's header, of a branch and of a leaf.
const ELEMENT: usize = 16;
/// The length of a bucket's header: the root page and the sequence.
const BUCKET_HEADER: usize = 16;
/// The length of a meta page's data before its checksum.
const META: usize = 56;
/// A page's flags.
const BRANCH: u64 = 0x01;
const LEAF: u64 = 0x02;
/// The flag of a leaf's element whose value is a bucket.
const IS_BUCKET: u64 = 0x01;
/// The deepest tree and the deepest nest of buckets that is followed.
const DEPTH: u32 = 32;
/// Sizes of pages that bbolt uses: that of the machine's memory.
const PAGE_SIZES: [u64; 5] = [4096, 8192, 16384, 32768, 65536];

/// A bolt database that has been read.
pub struct Bolt<'a> {
    bytes: &'a [u8],
    page_size: usize,
    root: u64,
    /// The elements that may still be read: no more than the file has room for.
    left: Cell<usize>,
}

/// What a bucket has under a key.
pub enum Entry<'a> {
    /// A value.
    Value(&'a [u8]),
    /// A bucket in the bucket.
    Bucket(Bucket<'a>),
}

/// A bucket: entries under their keys, in the order of the keys.
#[derive(Default)]
pub struct Bucket<'a>(BTreeMap<&'a [u8], Entry<'a>>);

impl<'a> Bucket<'a> {
    /// The value under `key`, if it is one.
    pub fn value(&self, key: &[u8]) -> Option<&'a [u8]> {
        match self.0.get(key) {
            Some(Entry::Value(value)) => Some(value),
            Some(Entry::Bucket(_)) | None => None,
        }
    }

    /// The bucket under `key`, if it is one.
    pub fn bucket(&self, key: &[u8]) -> Option<&Bucket<'a>> {
        match self.0.get(key) {
            Some(Entry::Bucket(bucket)) => Some(bucket),
            Some(Entry::Value(_)) | None => None,
        }
    }

    /// Every bucket in this one, with its key.
    pub fn buckets(&self) -> impl Iterator<Item = (&'a [u8], &Bucket<'a>)> {
        self.0.iter().filter_map(|(key, entry)| match entry {
            Entry::Bucket(bucket) => Some((*key, bucket)),
            Entry::Value(_) => None,
        })
    }
}

/// Reads the bytes of a whole database file and returns its root bucket. The database must not
/// be open for writing elsewhere.
///
/// Fails if the file is not a bolt database, is cut off, or contradicts itself.
pub fn read(bytes: &[u8]) -> Result<Bucket<'_>> {
    let bolt = Bolt::open(bytes)?;
    bolt.tree(bolt.page(bolt.root)?, DEPTH)
}

impl<'a> Bolt<'a> {
    /// Finds the newer of the two meta pages that are whole.
    fn open(bytes: &'a [u8]) -> Result<Self> {
        // The second meta page stands where the pages' size says, which the first may not.
        let places = std::iter::once(0).chain(PAGE_SIZES);
        let newest = places
            .filter_map(|at| meta(bytes, usize::try_from(at).ok()?))
            .max_by_key(|meta| meta.transaction)
            .context("not a bolt database: neither of its meta pages is whole")?;
        Ok(Self {
            bytes,
            page_size: usize::try_from(newest.page_size)?,
            root: newest.root,
            left: Cell::new(bytes.len() / ELEMENT),
        })
    }

    /// The bytes from the beginning of page `id` on, to the end of the file: a page may overflow
    /// into the next ones.
    fn page(&self, id: u64) -> Result<&'a [u8]> {
        let at = usize::try_from(id)
            .ok()
            .and_then(|id| id.checked_mul(self.page_size));
        at.and_then(|at| self.bytes.get(at..))
            .with_context(|| format!("page {id} is beyond the end of the file"))
    }

    /// The entries of the tree whose root page begins `page`.
    fn tree(&self, page: &'a [u8], depth: u32) -> Result<Bucket<'a>> {
        let mut bucket = Bucket::default();
        self.collect(page, depth, &mut bucket)?;
        Ok(bucket)
    }

    fn collect(&self, page: &'a [u8], depth: u32, bucket: &mut Bucket<'a>) -> Result<()> {
        let depth = depth.checked_sub(1).context("its tree is too deep")?;
        let flags = number(page, 8, 2)?;
        let count = usize::try_from(number(page, 10, 2)?)?;
        for place in 0..count {
            let left = self.left.get().checked_sub(1);
            self.left
                .set(left.context("it has more elements than room")?);
            let element = page
                .get(PAGE_HEADER + place * ELEMENT..)
                .context("an element is beyond the end of the file")?;
            match flags & (BRANCH | LEAF) {
                BRANCH => self.collect(self.page(number(element, 8, 8)?)?, depth, bucket)?,
                LEAF => {
                    let (key, value) = key_and_value(element)?;
                    let entry = match number(element, 0, 4)? & IS_BUCKET {
                        0 => Entry::Value(value),
                        _ => Entry::Bucket(self.bucket(value, depth)?),
                    };
                    bucket.0.insert(key, entry);
                }
                _ => bail!("a page is neither a branch nor a leaf"),
            }
        }
        Ok(())
    }

    /// The bucket whose header and, where it is small, page are `value`.
    fn bucket(&self, value: &'a [u8], depth: u32) -> Result<Bucket<'a>> {
        match number(value, 0, 8)? {
            0 => {
                let page = value.get(BUCKET_HEADER..);
                self.tree(page.context("a bucket is cut off")?, depth)
            }
            root => self.tree(self.page(root)?, depth),
        }
    }
}

/// The key and the value of a leaf's element: their place is counted from the element.
fn key_and_value(element: &[u8]) -> Result<(&[u8], &[u8])> {
    let at = usize::try_from(number(element, 4, 4)?)?;
    let key = usize::try_from(number(element, 8, 4)?)?;
    let value = usize::try_from(number(element, 12, 4)?)?;
    let both = element
        .get(at..)
        .and_then(|rest| rest.get(..key.checked_add(value)?))
        .context("an entry is beyond the end of the file")?;
    both.split_at_checked(key).context("an entry is cut off")
}

/// A meta page.
struct Meta {
    page_size: u64,
    root: u64,
    transaction: u64,
}

/// The meta page that begins at `at`, if there is a whole one.
fn meta(bytes: &[u8], at: usize) -> Option<Meta> {
    let meta = bytes.get(at.checked_add(PAGE_HEADER)?..)?;
    let whole = || {
        ensure!(number(meta, 0, 4)? == MAGIC, "another format");
        ensure!(number(meta, 4, 4)? == VERSION, "another version");
        let page_size = number(meta, 8, 4)?;
        ensure!(PAGE_SIZES.contains(&page_size), "no size of a page");
        let sum = checksum(meta.get(..META).context("cut off")?);
        ensure!(number(meta, META, 8)? == sum, "half written");
        Ok(Meta {
            page_size,
            root: number(meta, 16, 8)?,
            transaction: number(meta, 48, 8)?,
        })
    };
    whole().ok()
}

/// FNV-1a, of 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// The little-endian number of `length` bytes, 8 at most, at `at`.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64> {
    let digits = at.checked_add(length).and_then(|end| bytes.get(at..end));
    let digits = digits.context("it is cut off")?;
    let add = |number, digit: &u8| number << 8 | u64::from(*digit);
    Ok(digits.iter().rev().fold(0, add))
}
