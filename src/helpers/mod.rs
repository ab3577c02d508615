//! What children of PID 1 do that are this program too. PID 1 forks them and never waits
//! for one outside of its loop; they may wait.

pub mod certificates;
pub mod child;
pub mod data_file;
pub mod forwarder;
pub mod hooks;
pub mod loader;
pub mod probe;
pub mod relay;
pub mod sweeper;
