//! A stream as one frame of zstd with raw blocks: RFC 8878, 3.1.1.
//!
//! containerd's image store keeps a layer as it comes where that is gzip or zstd, and compresses a
//! plain tar with gzip, which takes most of the time of an import (`saveArchive` in moby's
//! daemon/containerd/image_import.go). A raw block costs neither side anything but a copy; a
//! stored block of gzip would need a checksum on both.

use std::io::{self, Write};

/// The magic number and the header of the frame: no size of the content, no checksum, no
/// dictionary, and the window that the largest block needs, 2^(10 + 7) bytes.
const HEAD: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];

/// The size of the largest block in bytes: RFC 8878, 3.1.1.2.4.
const LARGEST_BLOCK: usize = 128 << 10;

/// Writes what is written to it as raw blocks of a frame. The frame is complete after
/// [`RawFrame::finish`].
pub struct RawFrame<W> {
    output: W,
    block: Vec<u8>,
}

impl<W: Write> RawFrame<W> {
    /// Begins a frame in `output`.
    pub fn begin(mut output: W) -> io::Result<Self> {
        output.write_all(&HEAD)?;
        Ok(Self {
            output,
            block: Vec::with_capacity(LARGEST_BLOCK),
        })
    }

    /// Writes the last block, which may be empty.
    pub fn finish(mut self) -> io::Result<()> {
        self.write_block(true)
    }

    fn write_block(&mut self, last: bool) -> io::Result<()> {
        // Three bytes, little-endian: whether it is the last block, its type, which is 0, its size.
        let size = u32::try_from(self.block.len()).unwrap_or(u32::MAX);
        let [low, middle, high, _] = (size << 3 | u32::from(last)).to_le_bytes();
        self.output.write_all(&[low, middle, high])?;
        self.output.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

impl<W: Write> Write for RawFrame<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LARGEST_BLOCK.saturating_sub(self.block.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.block.extend_from_slice(taken);
        if self.block.len() == LARGEST_BLOCK {
            self.write_block(false)?;
        }
        Ok(taken.len())
    }

    /// Does nothing: a block is written when it is full, and the last by [`RawFrame::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;
    use ruzstd::decoding::StreamingDecoder;

    use super::*;

    /// The frame of what is written piece by piece.
    fn frame<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut frame = RawFrame::begin(&mut bytes)?;
        for piece in pieces {
            frame.write_all(piece)?;
        }
        frame.finish()?;
        Ok(bytes)
    }

    fn decompressed(mut frame: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        StreamingDecoder::new(&mut frame)
            .map_err(io::Error::other)?
            .read_to_end(&mut content)?;
        assert_eq!(frame, b"", "bytes after the frame");
        Ok(content)
    }

    fn counted(size: usize) -> Vec<u8> {
        (0..=u8::MAX).cycle().take(size).collect()
    }

    #[test]
    fn a_block_is_three_bytes_and_its_content() -> io::Result<()> {
        assert_eq!(frame([])?, [&HEAD[..], &[1, 0, 0]].concat());
        assert_eq!(
            frame([&b"ab"[..], b"c"])?,
            [&HEAD[..], &[3 << 3 | 1, 0, 0], b"abc"].concat()
        );
        let full = counted(LARGEST_BLOCK);
        let [low, middle, high, _] = (1_u32 << 20).to_le_bytes();
        let expected = [&HEAD[..], &[low, middle, high], &full, &[1, 0, 0]].concat();
        assert!(frame([full.as_slice()])? == expected);
        Ok(())
    }

    #[test]
    fn a_decoder_reads_a_frame_of_any_number_of_blocks() -> io::Result<()> {
        for size in [
            0,
            1,
            LARGEST_BLOCK - 1,
            LARGEST_BLOCK,
            LARGEST_BLOCK + 1,
            3 * LARGEST_BLOCK,
        ] {
            let content = counted(size);
            let frame = frame([content.as_slice()])?;
            assert!(decompressed(&frame)? == content, "{size} bytes");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            seeds in proptest::collection::vec((any::<u8>(), 0_usize..200_000), 0..6),
        ) {
            let pieces: Vec<Vec<u8>> = seeds
                .iter()
                .map(|(seed, size)| (0..*size).map(|at| (at % 251) as u8 ^ seed).collect())
                .collect();
            let frame = frame(pieces.iter().map(Vec::as_slice))?;
            prop_assert_eq!(decompressed(&frame)?, pieces.concat());
        }
    }
}
