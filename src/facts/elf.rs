//! The fields of an ELF file that programs are searched by: elf(5).

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How many section headers are read: more than Go's linker and GNU's write.
const SECTIONS: usize = 128;

/// The size of a section header in bytes: elf(5), `Elf64_Shdr`.
pub const SECTION: usize = 64;

/// How many bytes of the sections' names are read.
const NAMES: usize = 8 << 10;

/// Whether a file that begins so is a 64-bit little-endian ELF file.
pub fn is_known(begin: &[u8]) -> bool {
    begin.starts_with(b"\x7fELF\x02\x01")
}

/// Whether an ELF file is written for the processor that this program is written for: its
/// `e_machine` is EM_X86_64 or EM_AARCH64.
pub fn is_native(file: &File) -> bool {
    let native = match std::env::consts::ARCH {
        "x86_64" => Some(62),
        "aarch64" => Some(183),
        _ => None,
    };
    native.is_some() && number(&part(file, 18, 2), 0, 2) == native
}

/// The little-endian number of `length` bytes at `at`.
pub fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    let digits = bytes.iter().rev();
    Some(digits.fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// The first `limit` bytes of the section `name`, which ends with a zero. `None` where the file is
/// no such ELF file, or has no such section.
pub fn section(file: &File, name: &[u8], limit: usize) -> Option<Vec<u8>> {
    let head = part(file, 0, 64);
    if !is_known(&head) {
        return None;
    }
    let table = number(&head, 40, 8)?;
    let count = usize::try_from(number(&head, 60, 2)?).ok()?.min(SECTIONS);
    let names = usize::try_from(number(&head, 62, 2)?).ok()?;
    let headers = part(file, table, count.checked_mul(SECTION)?);
    let header = |index: usize| headers.chunks_exact(SECTION).nth(index);
    let texts = part(file, number(header(names)?, 24, 8)?, NAMES);
    let section = headers.chunks_exact(SECTION).find(|header| {
        let at = number(header, 0, 4).and_then(|at| usize::try_from(at).ok());
        let found = at.and_then(|at| texts.get(at..));
        found.is_some_and(|found| found.starts_with(name))
    })?;
    Some(part(file, number(section, 24, 8)?, limit))
}

/// The bytes of a file from `offset` on, at most `length`.
fn part(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let count = file.read_at(&mut bytes, offset).unwrap_or(0);
    bytes.truncate(count);
    bytes
}
