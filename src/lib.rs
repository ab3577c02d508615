//! `dind`: PID 1 of a privileged container that turns it into a Docker host.
//!
//! ```text
//! arguments, environment ──> config ──> contract ──┐
//!                                                  ├──> plan ──> sockets, apply ──> supervise ──> exit status
//! /proc, /sys, statfs ─────> facts ────────────────┘
//! ```
//!
//! Decisions are values: [`contract`], [`dockerd_options`], [`plan`] and
//! [`supervise::machine`] make no system call. Effects are in [`sockets`],
//! [`apply`] (with [`delegate`]), [`spawn`], [`supervise`] and [`terminal`]; what is
//! unsafe is in `sys`. The order of the phases is `main`'s.

pub mod apply;
pub mod cli;
pub mod client;
pub mod config;
pub mod contract;
pub mod delegate;
pub mod dockerd_options;
pub mod facts;
pub mod fault;
pub mod health;
pub mod logging;
pub mod mountinfo;
pub mod ping;
pub mod plan;
pub mod sockets;
pub mod spawn;
pub mod supervise;
pub mod sys;
pub mod terminal;
pub mod tls;
