//! Text for users and for programs that read logs: faults and findings, log lines as text
//! and as JSON, the removal of secrets, and the progress line.

pub mod backlog;
pub mod fault;
#[cfg(test)]
mod field_names;
pub mod finding;
pub mod json_log;
pub mod line;
pub mod logging;
pub mod progress;
pub mod remedy;
pub mod secrets;
