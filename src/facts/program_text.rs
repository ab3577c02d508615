//! Texts in programs, which tell what a program can do without it being run.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use memchr::memmem::Finder;

use super::elf;
use crate::sys::read::{self, Links};

/// How many bytes are read at a time. dockerd has 100 MB, but each page of a buffer costs a fault,
/// and a text is often found in the first part.
const PART: usize = 1 << 15;

/// How many bytes are read in all: a file without an end must not take for ever.
const MOST: u64 = 1 << 29;

/// Whether a file, or the constants of a program, contain each of the `wanted` texts. A file that
/// cannot be read contains none.
pub fn has<const N: usize>(path: &Path, wanted: [&[u8]; N]) -> [bool; N] {
    let mut found = [false; N];
    let Ok((mut file, _)) = read::open(path, Links::Follow) else {
        return found;
    };
    let (start, length) = constants(&mut file);
    if file.seek(SeekFrom::Start(start)).is_err() {
        return found;
    }
    let mut file = file.take(length.min(MOST));
    let overlap = wanted.iter().map(|text| text.len()).max().unwrap_or(0);
    let finders = wanted.map(Finder::new);
    let mut window = vec![0; overlap + PART];
    // The end of the last part, which may be the beginning of a match.
    let mut kept = 0;
    while found.contains(&false) {
        let free = window.get_mut(kept..).unwrap_or_default();
        let filled = match file.read(free) {
            Ok(0) | Err(_) => break,
            Ok(count) => kept + count,
        };
        let text = window.get(..filled).unwrap_or_default();
        for (finder, found) in finders.iter().zip(&mut found) {
            *found = *found || finder.find(text).is_some();
        }
        kept = overlap.min(filled);
        window.copy_within(filled - kept..filled, 0);
    }
    found
}

/// The offset and length in bytes of a program's constants: its last read-only segment, which
/// follows the code (elf(5), Elf64_Phdr). The whole file where it is not a 64-bit
/// little-endian ELF file.
fn constants(file: &mut File) -> (u64, u64) {
    const HEADER: usize = 56;
    const LOAD: u32 = 1;
    const READ: u32 = 4;
    let mut begin = [0; 4096];
    let count = file.read(&mut begin).unwrap_or(0);
    let begin = begin.get(..count).unwrap_or_default();
    let number = |at, length| elf::number(begin, at, length);
    let last = || {
        let table = usize::try_from(number(32, 8)?).ok()?;
        let headers = (0..number(56, 2)?).filter_map(|index| {
            let at = usize::try_from(index).ok()?.checked_mul(HEADER)?;
            let at = at.checked_add(table)?;
            let kind = (number(at, 4)?, number(at.checked_add(4)?, 4)?);
            let place = (
                number(at.checked_add(8)?, 8)?,
                number(at.checked_add(32)?, 8)?,
            );
            (kind == (u64::from(LOAD), u64::from(READ))).then_some(place)
        });
        headers.max()
    };
    elf::is_known(begin)
        .then(last)
        .flatten()
        .unwrap_or((0, u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_texts_across_parts() -> std::io::Result<()> {
        let path = std::env::temp_dir().join(format!("dind-has-text-{}", std::process::id()));
        let mut content = vec![b'x'; 8 * PART - 3];
        content.extend(b"needle");
        std::fs::write(&path, content)?;
        let found = has(&path, [b"needle", b"noodle", b"xneedle"]);
        std::fs::remove_file(&path)?;
        assert_eq!(found, [true, false, true]);
        assert_eq!(has(&path, [b"needle"]), [false]);
        // A program is searched in its constants; this text is one of the test's own.
        let program = std::env::current_exe()?;
        assert_eq!(has(&program, [b"a constant of this test"]), [true]);
        Ok(())
    }
}
