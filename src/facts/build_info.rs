//! What the Go linker writes into a program about its build, read without running it: the text of
//! `go version -m`.
//!
//! A program that prints its version takes tens of milliseconds, and a search of its 20 MB of
//! constants takes ten. This takes five reads of a few kilobytes.

use std::path::Path;

use super::elf;
use crate::sys::read::{Links, open};

/// How many bytes of the text are read. The lines about the program itself come first.
const LIMIT: usize = 8 << 10;

/// The section, and what it begins with: `buildInfoMagic` in Go's debug/buildinfo.
const NAME: &[u8] = b".go.buildinfo\0";
const MAGIC: &[u8] = b"\xff Go buildinf:";

/// The flag that the strings follow the header, as since Go 1.18.
const INLINE: u8 = 2;

/// The length in bytes of the header of the section, and of the marks around the second string.
const HEADER: usize = 32;
const MARK: usize = 16;

/// Gives the lines about the build of `program`: `path`, `mod`, `build`. `None` where it is not a
/// 64-bit little-endian ELF file that Go 1.18 or later linked.
pub fn read(program: &Path) -> Option<String> {
    let (file, _) = open(program, Links::Follow).ok()?;
    text(&elf::section(&file, NAME, LIMIT)?)
}

/// The second string of the section: the first one is Go's version.
fn text(section: &[u8]) -> Option<String> {
    if !section.starts_with(MAGIC) || section.get(15)? & INLINE == 0 {
        return None;
    }
    let (_, rest) = string(section.get(HEADER..)?)?;
    let (lines, _) = string(rest)?;
    let end = lines.len().checked_sub(MARK)?;
    Some(String::from_utf8_lossy(lines.get(MARK..end)?).into_owned())
}

/// A string and what follows it. Its length comes first, in groups of seven bits, the lowest one
/// first (`Uvarint` in Go's encoding/binary). One that is cut off is as long as it is.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0;
    for (index, byte) in bytes.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let rest = bytes.get(index.checked_add(1)?..)?;
            return Some(rest.split_at(length.min(rest.len())));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::elf::SECTION;
    use super::*;

    const LINES: &str =
        "path\tgithub.com/containerd/containerd/v2/cmd/containerd\nbuild\t-trimpath=true\n";

    /// The content of the section.
    fn section(lines: &str) -> Vec<u8> {
        let marked = ["-".repeat(MARK), lines.to_owned(), "-".repeat(MARK)].concat();
        let mut bytes = [MAGIC, &[8, INLINE], &[0; 16]].concat();
        for text in ["go1.24.4", &marked] {
            let length = u8::try_from(text.len() & 0x7f).unwrap_or_default();
            let more = u8::try_from(text.len() >> 7).unwrap_or_default();
            bytes.extend([length | 0x80, more]);
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    /// An ELF file of a header, two section headers, their names, and the content.
    fn program(content: &[u8]) -> Vec<u8> {
        let names = [b"\0.shstrtab\0", NAME].concat();
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(64, 0);
        file.splice(40..48, 64_u64.to_le_bytes());
        file.splice(60..62, 2_u16.to_le_bytes());
        file.splice(62..64, 0_u16.to_le_bytes());
        let start = 64 + 2 * SECTION as u64;
        for (name, offset) in [(1_u32, start), (11, start + names.len() as u64)] {
            let mut header = name.to_le_bytes().to_vec();
            header.resize(SECTION, 0);
            header.splice(24..32, offset.to_le_bytes());
            file.extend(header);
        }
        file.extend(names);
        file.extend(content);
        file
    }

    #[test]
    fn the_lines_are_read_and_nothing_else() -> std::io::Result<()> {
        let path = std::env::temp_dir().join(format!("dind-build-info-{}", std::process::id()));
        let long = format!("{LINES}build\t{}", "x".repeat(LIMIT));
        let whole = program(&section(LINES));
        let mut older = section(LINES);
        older[15] = 0;
        for (content, expected) in [
            (whole.clone(), Some(LINES)),
            (program(&section(&long)), Some(LINES)),
            (program(&older), None),
            (program(b"something else"), None),
            (b"#!/bin/sh\n".to_vec(), None),
            (whole.get(..100).unwrap_or_default().to_vec(), None),
            (Vec::new(), None),
        ] {
            std::fs::write(&path, content)?;
            let found = read(&path);
            let found = found.as_deref().map(|text| text.get(..LINES.len()));
            assert_eq!(found, expected.map(Some));
        }
        std::fs::remove_file(&path)?;
        assert_eq!(read(&path), None);
        assert_eq!(read(&std::env::current_exe()?), None);
        Ok(())
    }
}
