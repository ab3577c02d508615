//! The user's input: the environment, the command line, dockerd's options.

pub mod cli;
pub mod config;
pub mod contract;
pub mod docker_proxy;
pub mod dockerd_arguments;
pub mod nest;
pub mod request;
pub mod rootlesskit;
pub mod san;
pub mod store;
pub mod variables;
