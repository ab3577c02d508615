//! The subcommands: programs of their own, which run beside PID 1 or in its place.

pub mod doctor;
pub mod health;
pub mod nest;
