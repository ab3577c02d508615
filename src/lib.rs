//! `dind`: PID 1 of a privileged container that turns it into a Docker host.
//!
//! ```text
//! arguments, environment ──> input ──┐
//!                                    ├──> plan ──> apply ──> supervise ──> exit status
//! /proc, /sys, statfs ─────> facts ──┘                           │
//!                                                             helpers
//! ```
//!
//! Each folder may import those above it in this list, and none below: `tests/layout` holds
//! that. Decisions are values: [`input`], [`plan`], `tls::decide` and
//! `supervise::machine` make no system call.

pub mod messages;
pub mod shortcut;
pub mod sys;

pub mod input;

pub mod store;

pub mod facts;

pub mod plan;
pub mod tls;

pub mod api;
pub mod apply;

pub mod programs;

pub mod helpers;

pub mod supervise;
