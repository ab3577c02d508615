//! Requests to dockerd and of dockerd, and the lock by which other processes learn that docker is
//! ready.

pub mod answer;
pub mod exchange;
pub mod ping;
pub mod ports;
pub mod readiness;
pub mod request;
