//! The supervisor's decisions, without a system call: events in, effects out.
//!
//! Time is a [`std::time::Duration`] since this program started, without the time that it was
//! paused, so that tests can choose it.

mod ends;
mod event;
mod restart;
mod settings;
mod start;
mod state;
mod stop;

pub use event::{Effect, Event, Level, Message, Process};
pub use settings::{Need, Settings};
pub use state::Machine;

#[cfg(test)]
mod tests;
