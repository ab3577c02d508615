//! The subcommands that are programs of their own, beside PID 1 or in its place.

pub mod docker_proxy;
pub mod doctor;
pub mod health;
pub mod nest;
pub mod store;
