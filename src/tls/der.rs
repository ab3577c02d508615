//! DER that others have written: ITU-T X.690.

use anyhow::{Result, anyhow, bail};
use yasna::{ASN1Result, BERReader};

/// No certificate or key is nested as deep.
const DEEPEST: u8 = 32;

/// Reads `der` with `read`. Whatever is in it, this ends with a value or an error.
pub fn parse<T>(der: &[u8], read: impl FnOnce(BERReader<'_, '_>) -> ASN1Result<T>) -> Result<T> {
    // yasna 0.6 adds the length of an element that it skips to its position without a
    // look at what is left, and a sum that is too large panics: that would be the end of
    // PID 1. This can go when BERReaderImpl::skip_general adds with a check.
    if fits(der, DEEPEST).is_none() {
        bail!("an element is longer than what it is in");
    }
    yasna::parse_der(der, read).map_err(|error| anyhow!("{:?}", error.kind()))
}

/// Whether every element lies within the one around it.
fn fits(mut der: &[u8], depth: u8) -> Option<()> {
    while !der.is_empty() {
        let (is_constructed, content, rest) = element(der)?;
        if is_constructed {
            fits(content, depth.checked_sub(1)?)?;
        }
        der = rest;
    }
    Some(())
}

/// The first element: whether it has elements, its content, and what comes after it.
fn element(der: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    // Numbers that take another byte: nothing in X.509 has one.
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if first & 0x80 == 0 {
        (usize::from(*first), rest)
    } else {
        let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        (usize::try_from(number(length)?).ok()?, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag & 0x20 != 0, content, rest))
}

/// A length of one to four bytes.
fn number(bytes: &[u8]) -> Option<u32> {
    let bytes = (1..=4).contains(&bytes.len()).then_some(bytes)?;
    Some(
        bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn first(reader: BERReader<'_, '_>) -> ASN1Result<Vec<u8>> {
        reader.read_sequence(|reader| {
            let first = reader.next().read_der()?;
            while reader.read_optional(|reader| reader.read_der())?.is_some() {}
            Ok(first)
        })
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        let long = [0x30, 10, 0x30, 0x88, 255, 255, 255, 255, 255, 255, 255, 248];
        assert!(parse(&long, first).is_err());
        let nested: Vec<u8> = (0..60).rev().flat_map(|n| [0x30, n * 2]).collect();
        assert!(parse(&nested, first).is_err());
        assert_eq!(parse(&[0x30, 3, 2, 1, 7], first).ok(), Some(vec![2, 1, 7]));
    }

    proptest! {
        #[test]
        fn never_panics(der in prop::collection::vec(any::<u8>(), 0..40), length in any::<u64>()) {
            let _ = parse(&der, first);
            let mut long = vec![0x30, 0x10, 0x30, 0x88];
            long.extend(length.to_be_bytes());
            long.extend(der);
            let _ = parse(&long, first);
        }
    }
}
