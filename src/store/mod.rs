//! A store of images and build cache that many engines share: its format, and what of a data root
//! belongs in it.

pub mod bolt;
pub mod build;
pub mod clean;
pub mod copy;
pub mod detach;
pub mod disk;
pub mod file;
pub mod manifest;
pub mod mend;
pub mod origin;
pub mod snapshots;
