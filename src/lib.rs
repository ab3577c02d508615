//! `dind`: PID 1 of a privileged container that turns it into a Docker host.
//!
//! ```text
//! arguments, environment ──> config ──> contract ──┐
//!                                                  ├──> plan ──> sockets, apply ──> supervise ──> exit status
//! /proc, /sys, statfs ─────> facts ────────────────┘
//! ```
//!
//! Decisions are values: [`contract`], [`client`], [`dockerd_options`], [`plan`], [`json_log`],
//! [`mod@tls::decide`] and [`supervise::machine`] make no system call. Effects are in
//! [`sockets`], [`apply`] (with [`delegate`], [`data_root`] and [`tls`]), [`spawn`], [`supervise`],
//! [`forwarder`], [`hooks`], [`images`] (by [`api`]), [`relay`] and [`terminal`]; what is
//! unsafe is in `sys`. The order of the phases is `main`'s. [`doctor`], [`health`] and [`nest`]
//! are programs of their own, which run beside PID 1; what the first finds is shown too when
//! dockerd does not start.

pub mod api;
pub mod apply;
pub mod cli;
pub mod client;
pub mod config;
pub mod contract;
pub mod data_root;
pub mod delegate;
pub mod dockerd_options;
pub mod doctor;
pub mod end;
pub mod facts;
pub mod fault;
pub mod finding;
pub mod forwarder;
pub mod health;
pub mod hooks;
pub mod images;
pub mod json_log;
pub mod line;
pub mod logging;
pub mod mountinfo;
pub mod nest;
pub mod nonblocking;
pub mod ping;
pub mod plan;
pub mod progress;
pub mod readiness;
pub mod relay;
pub mod request;
pub mod role;
pub mod search;
pub mod secrets;
pub mod signals;
pub mod sockets;
pub mod spawn;
pub mod supervise;
pub mod sys;
pub mod terminal;
pub mod tls;
pub mod write;
