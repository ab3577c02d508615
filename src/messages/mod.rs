//! What is written for people and for programs that read logs: faults, findings, lines.

pub mod fault;
#[cfg(test)]
mod field_names;
pub mod finding;
pub mod json_log;
pub mod line;
pub mod logging;
pub mod progress;
pub mod secrets;
