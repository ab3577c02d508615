//! End-to-end tests: real daemons in real containers, through the real `docker`.
//!
//! `tests/lab test` gives them an engine, images and the binary. Without these they
//! fail rather than pass, so that nobody takes silence for success. Deadlines are
//! there against hanging only; every wait is for something that happens.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail, and a panic is how a test does it; \
              and none of them is PID 1"
)]

mod diagnosis;
mod docker;
mod pty;

mod arm64;
mod bad_input;
mod capabilities;
mod client;
mod clients;
mod commit;
mod compose;
mod crash;
mod daemon_json;
mod daemons;
mod data_root;
mod deaf;
mod descriptors;
mod dns;
mod doctor;
mod faults;
mod fleet;
mod hack_dind;
mod hangs;
mod health;
mod hides;
mod hooks;
mod host;
mod image;
mod images;
mod iptables;
mod ipv6;
mod limits;
mod links;
mod load;
mod logs;
mod memory;
mod mtu;
mod neighbours;
mod nest;
mod nesting;
mod orphans;
mod pause;
mod plan;
mod read_only;
mod reads;
mod recipes;
mod refusals;
mod registry;
mod restart;
mod rootless;
mod rootless_boundary;
mod rootless_features;
mod rootless_flags;
mod rootless_limits;
mod rootless_maps;
mod rootless_network;
mod rootless_outside;
mod rootless_ports;
mod rootless_storage;
mod rootless_stores;
mod rootless_user;
mod seccomp;
mod serve;
mod session;
mod shortcut;
mod signals;
mod soak;
mod soak_stores;
mod stop;
mod storage;
mod store_use;
mod stores;
mod terminal;
mod tls;
mod tools;
mod unread;
mod upstream;
mod warm_start_files;
mod warm_starts;
