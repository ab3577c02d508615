//! The fields of an ELF file that programs are searched by: elf(5).

/// Whether a file that begins so is a 64-bit little-endian ELF file.
pub fn is_known(begin: &[u8]) -> bool {
    begin.starts_with(b"\x7fELF\x02\x01")
}

/// The little-endian number of `length` bytes at `at`.
pub fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    let digits = bytes.iter().rev();
    Some(digits.fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
