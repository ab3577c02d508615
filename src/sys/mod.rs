//! System calls, one operation per function, and all `unsafe` code. No policy.

pub mod bridge;
pub mod clock;
pub mod denied;
pub mod descriptors;
pub mod end;
pub mod filesystem;
pub mod incoming;
pub mod limits;
pub mod lock;
pub mod log;
pub mod loop_device;
pub mod memory;
pub mod nonblocking;
pub mod outlet;
pub mod process;
pub mod read;
pub mod search;
pub mod signals;
pub mod spawn;
pub mod terminal;
pub mod trace;
pub mod tree;
pub mod wait;
pub mod write;
pub mod xattr;
