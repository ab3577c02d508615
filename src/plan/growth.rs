//! How an ext4 image grows: `docker commit` and `docker export` copy it with the container's layer,
//! and a tar has no holes. So it is only a little larger than its content.

use std::time::Duration;

/// How an ext4 image grows while it is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// The size that it may grow to, in bytes.
    pub most: u64,
}

/// What an image grows by, in bytes: more than is written while it does.
const STEP: u64 = 2 << 30;

/// The free space that an image keeps, in bytes: about what a machine writes into memory in the
/// longest of pauses, and while the kernel adds a step.
const RESERVE: u64 = 1 << 30;

/// More than a machine writes into memory in a second, in bytes.
const FASTEST: u64 = 4 << 30;

/// The limits of the pause between two looks at the free space.
const SHORTEST: Duration = Duration::from_millis(25);
const LONGEST: Duration = Duration::from_secs(1);

impl Growth {
    /// Returns the next size of an image of `size` bytes with `free` of them free; `None` if there
    /// is enough room, or the image has its full size.
    pub fn next(self, size: u64, free: u64) -> Option<u64> {
        let lacks = free < self.reserve(size) && size < self.most;
        lacks.then(|| size.saturating_add(STEP).min(self.most))
    }

    /// Returns how long the room above the reserve lasts at least.
    pub fn pause(self, size: u64, free: u64) -> Duration {
        let spare = free.saturating_sub(self.reserve(size));
        let milliseconds = spare / (FASTEST / 1000);
        Duration::from_millis(milliseconds).clamp(SHORTEST, LONGEST)
    }

    /// A small image grows as soon as there is anything but what an idle engine writes.
    fn reserve(self, size: u64) -> u64 {
        RESERVE.min(size / 4 * 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn it_grows_in_steps_before_it_is_full() {
        let growth = Growth { most: 5 * GIB };
        for (size, free, expected) in [
            // Idle, and with a first small image.
            (184 * MIB, 147 * MIB, None),
            (184 * MIB, 130 * MIB, Some(184 * MIB + 2 * GIB)),
            (4 * GIB, GIB, None),
            (4 * GIB, GIB - 1, Some(5 * GIB)),
            (5 * GIB, 0, None),
            // A smaller limit than that of the start which made it.
            (8 * GIB, 0, None),
        ] {
            assert_eq!(growth.next(size, free), expected, "{size} {free}");
        }
        let far = growth.pause(4 * GIB, 3 * GIB);
        assert_eq!(far, Duration::from_millis(500));
        assert_eq!(growth.pause(4 * GIB, GIB), SHORTEST);
        assert_eq!(growth.pause(100 * GIB, 99 * GIB), LONGEST);
    }

    proptest! {
        #[test]
        fn it_always_comes_to_its_full_size(first in 1_u64..1 << 40, more in 0_u64..1 << 44) {
            let growth = Growth { most: first + more };
            let mut size = first;
            let mut steps = 0_u64;
            while let Some(next) = growth.next(size, 0) {
                prop_assert!(next > size && next <= growth.most);
                size = next;
                steps += 1;
            }
            prop_assert_eq!(size, growth.most);
            prop_assert!(steps <= more / STEP + 1);
        }
    }
}
