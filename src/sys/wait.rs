//! Time-outs of poll(2).

use std::time::Duration;

use nix::poll::PollTimeout;

/// The time-out for so long a wait, rounded up to whole milliseconds: what is less than one
/// would only spin. Without end for `None`.
pub fn timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else {
        return PollTimeout::NONE;
    };
    let up = left.saturating_add(Duration::from_nanos(999_999));
    PollTimeout::try_from(up).unwrap_or(PollTimeout::MAX)
}
