//! Decompression for engines without zstd: before 23.0 (API 1.42) dockerd reads only tar, gzip,
//! bzip2 and xz (`DetectCompression` in moby's pkg/archive).

use std::io::{self, BufReader, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use tracing::debug;

/// The first version of the API whose engines decompress zstd.
pub const KNOWN_FROM: (u32, u32) = (1, 42);

/// The largest window, in bytes, as with zstd(1) unless `--memory` allows more.
const LARGEST_WINDOW: u64 = 128 << 20;

/// Whether a file with this beginning has frames of zstd: RFC 8878, 3.1.
pub fn is_zstd(beginning: [u8; 4]) -> bool {
    let magic = u32::from_le_bytes(beginning);
    magic == 0xfd2f_b528 || magic & 0xffff_fff0 == 0x184d_2a50
}

/// Reads the decompressed content of all frames of a file. A file that ends within a frame, and
/// a wrong checksum, are errors.
pub struct Frames<R> {
    source: BufReader<R>,
    decoder: FrameDecoder,
    begun: bool,
}

impl<R: Read> Frames<R> {
    /// A reader of the frames in `source`, from which nothing is read yet.
    pub fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(LARGEST_WINDOW);
        Self {
            source: BufReader::with_capacity(1 << 17, source),
            decoder,
            begun: false,
        }
    }

    /// Goes to the next frame that has content. Returns whether there is one.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if !self.has_more()? {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.begun = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut (&mut self.source).take(length), &mut io::sink())?;
                    if skipped < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(broken(&error)),
            }
        }
    }

    fn has_more(&mut self) -> io::Result<bool> {
        use io::BufRead;
        Ok(!self.source.fill_buf()?.is_empty())
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.begun && !self.next_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.source, one);
                decoded.map_err(|error| broken(&error))?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let expected = self.decoder.get_checksum_from_data();
            if expected.is_some() && expected != self.decoder.get_calculated_checksum() {
                return Err(io::Error::other("its zstd checksum is wrong"));
            }
            self.begun = false;
        }
    }
}

fn broken(error: &FrameDecoderError) -> io::Error {
    debug!(error = %error, "{error}");
    io::Error::other("its zstd data is corrupt or incomplete")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    /// A frame of `text`, with a checksum.
    fn frame(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    fn skippable(length: u32, content: &[u8]) -> Vec<u8> {
        [
            &0x184d_2a53_u32.to_le_bytes(),
            &length.to_le_bytes(),
            content,
        ]
        .concat()
    }

    fn read(file: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Frames::new(file).read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn all_frames_are_read_and_others_skipped() -> io::Result<()> {
        let long: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let file = [
            skippable(3, b"abc"),
            frame(b"one "),
            frame(b""),
            skippable(0, b""),
            frame(&long),
            skippable(1, b"x"),
        ];
        assert_eq!(read(&file.concat())?, [b"one ".as_slice(), &long].concat());
        assert_eq!(read(b"")?, b"");
        Ok(())
    }

    #[test]
    fn a_broken_frame_is_an_error() {
        let whole = frame(b"some text that is long enough");
        for end in 1..whole.len() {
            assert!(read(whole.get(..end).unwrap_or_default()).is_err(), "{end}");
        }
        let mut wrong = whole.clone();
        if let Some(last) = wrong.last_mut() {
            *last ^= 1;
        }
        let found = read(&wrong).map_err(|error| error.to_string());
        assert_eq!(found, Err("its zstd checksum is wrong".into()));
        assert!(read(&skippable(9, b"short")).is_err());
        assert!(read(b"no zstd at all").is_err());
    }

    #[test]
    fn zstd_is_detected_by_its_first_bytes() {
        for (beginning, expected) in [
            ([0x28, 0xb5, 0x2f, 0xfd], true),
            ([0x50, 0x2a, 0x4d, 0x18], true),
            ([0x5f, 0x2a, 0x4d, 0x18], true),
            ([0x60, 0x2a, 0x4d, 0x18], false),
            ([0x1f, 0x8b, 8, 0], false),
        ] {
            assert_eq!(is_zstd(beginning), expected, "{beginning:x?}");
        }
    }
}
