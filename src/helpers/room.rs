//! Who has to go for a newcomer where there is room for a limited number, so that one client takes
//! no more than its part from others.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long one is spared: a client that comes faster than that has its own newcomers refused, which
/// costs less than to begin with each of them.
const SPARED: Duration = Duration::from_secs(1);

/// How many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    all: usize,
    /// Of one client.
    each: usize,
}

impl Most {
    /// At most `all`, and of one client its part of them; one at least.
    pub fn new(all: usize, parts: usize) -> Self {
        let all = all.max(1);
        let each = all.checked_div(parts).unwrap_or(all).max(1);
        Self { all, each }
    }
}

/// What is done with a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Free,
    /// The one with this index goes.
    InPlaceOf(usize),
    /// The newcomer goes.
    None,
}

/// Decides about a newcomer from the client `source`. `held` are those that are there: the client of
/// each, and since when it is idle. A client that has its part, or that has more than any other
/// where all is taken, makes room itself: the longest idle of its own goes. Else the one that has
/// most loses its longest idle; of several that have as much, the one whose is idle longest of all.
pub fn room(
    held: impl Iterator<Item = (IpAddr, Instant)> + Clone,
    source: IpAddr,
    most: Most,
    now: Instant,
) -> Room {
    // Of a flood each one comes by here, and only here.
    let mut all = 0;
    let mut own = Share::default();
    for (index, (client, idle)) in held.clone().enumerate() {
        all += 1;
        if client == source {
            own.add(index, idle);
        }
    }
    let has_part = own.count >= most.each;
    if all < most.all && !has_part {
        return Room::Free;
    }
    if !has_part {
        let mut shares: BTreeMap<IpAddr, Share> = BTreeMap::new();
        for (index, (client, idle)) in held.enumerate() {
            shares.entry(client).or_default().add(index, idle);
        }
        let largest = shares
            .into_values()
            .max_by_key(|share| (share.count, Reverse(share.longest.map(|(_, idle)| idle))));
        if let Some(largest) = largest.filter(|share| share.count > own.count)
            && let Some((place, _)) = largest.longest
        {
            return Room::InPlaceOf(place);
        }
    }
    match own.longest {
        Some((place, idle)) if now.saturating_duration_since(idle) >= SPARED => {
            Room::InPlaceOf(place)
        }
        _ => Room::None,
    }
}

/// What a client has.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    count: usize,
    /// The index of the longest idle, and since when it is.
    longest: Option<(usize, Instant)>,
}

impl Share {
    fn add(&mut self, index: usize, idle: Instant) {
        self.count += 1;
        if self.longest.is_none_or(|(_, longest)| idle < longest) {
            self.longest = Some((index, idle));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    #[test]
    fn whoever_has_most_makes_room() {
        let begin = Instant::now();
        let later = |seconds| begin + Duration::from_secs(seconds);
        let most = Most::new(8, 2);
        // The clients in the order in which they came, one each second; the newcomer, and when.
        for (held, source, at, expected) in [
            (&[][..], 1, 0, Room::Free),
            (&[1, 1, 1, 2, 2, 2], 1, 9, Room::Free),
            // It has its part, and others have not.
            (&[1, 1, 1, 1], 1, 9, Room::InPlaceOf(0)),
            (&[2, 1, 1, 1, 1], 1, 9, Room::InPlaceOf(1)),
            (&[1, 1, 1, 1], 2, 9, Room::Free),
            // No room at all.
            (&[1, 1, 1, 1, 2, 2, 3, 3], 2, 9, Room::InPlaceOf(0)),
            (&[3, 2, 1, 1, 2, 1, 1, 3], 4, 9, Room::InPlaceOf(2)),
            (&[1, 1, 2, 2, 3, 3, 4, 4], 5, 9, Room::InPlaceOf(0)),
            (&[4, 1, 1, 4, 2, 3, 3, 2], 5, 9, Room::InPlaceOf(0)),
            (&[2, 1, 1, 4, 2, 3, 3, 4], 5, 9, Room::InPlaceOf(0)),
            (&[1, 1, 2, 2, 3, 3, 4, 4], 2, 9, Room::InPlaceOf(2)),
            // Its own has only begun.
            (&[1, 1, 1, 1], 1, 0, Room::None),
        ] {
            let since = |(index, number): (usize, &u8)| {
                (client(*number), later(u64::try_from(index).unwrap_or(0)))
            };
            let found = room(
                held.iter().enumerate().map(since),
                client(source),
                most,
                later(at),
            );
            assert_eq!(found, expected, "{held:?} {source}");
        }
    }

    proptest! {
        /// Whatever the others do, a client that has no more than its share loses none.
        #[test]
        fn who_has_its_share_loses_none(
            newcomers in prop::collection::vec((0_u8..6, 0_u64..3000), 1..200),
            all in 6_usize..40,
        ) {
            let most = Most::new(all, 2);
            let share = all / 6;
            let mut now = Instant::now();
            let mut held: Vec<(IpAddr, Instant)> = Vec::new();
            for (number, milliseconds) in newcomers {
                now += Duration::from_millis(milliseconds);
                let source = client(number);
                let before = held.clone();
                match room(held.iter().copied(), source, most, now) {
                    Room::Free => held.push((source, now)),
                    Room::InPlaceOf(index) => {
                        let (gone, _) = held.remove(index);
                        let had = before.iter().filter(|(client, _)| *client == gone).count();
                        prop_assert!(gone == source || had > share, "{gone} had {had} of {all}");
                        held.push((source, now));
                    }
                    Room::None => {
                        let had = before.iter().filter(|(client, _)| *client == source).count();
                        prop_assert!(had >= share, "{source} has {had} of {all}");
                    }
                }
                prop_assert!(held.len() <= all);
            }
        }
    }
}
