//! `dind nest DEPTH [-- ARG...]`: Docker in Docker, DEPTH containers deep, and in the
//! innermost what `dind ARG...` does.
//!
//! Level 1 is the container that the user started. It starts its daemon as for any
//! command, and the command is this program again: it gives the daemon an image of the
//! container's own root file system ([`image`]) and becomes a `docker run` of it, in
//! which all this begins anew one level deeper. What differs by level is in `level` and
//! is pure; what will run out is in [`limits`].

mod docker;
pub mod image;
mod level;
pub mod limits;
mod run;
mod tree;

pub use run::{check, not_probed, run};
