//! `dind nest DEPTH [-- ARG...]`: Docker in Docker, DEPTH containers deep. The innermost does
//! what `dind ARG...` does.
//!
//! Level 1 is the container that the user started. It starts its daemon as for any command, and
//! the command is this program again: it imports the container's root file system into the
//! daemon as an image (`image`) and becomes a `docker run` of that image, in which the same is
//! done one level deeper. What differs by level is in `level` and is pure; the resources that
//! can run out are in `limits`.

mod docker;
mod image;
mod level;
mod limits;
mod raw_frame;
mod run;
mod tree;

pub use run::{check, run};
