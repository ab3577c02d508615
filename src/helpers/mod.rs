//! The children that PID 1 forks without exec. They may block. Except for the probe, PID 1
//! never waits for one outside of its loop.

pub mod certificates;
pub mod child;
pub mod containers;
pub mod data_file;
pub mod filler;
mod flow;
pub mod forwarder;
pub mod grower;
pub mod hooks;
pub mod joiner;
pub mod loader;
pub mod namespaces;
pub mod packer;
pub mod port_forwarder;
pub mod ports;
pub mod preparer;
pub mod probe;
pub mod publisher;
pub mod relay;
mod room;
pub mod run;
pub mod sweeper;
