//! The docker CLI, as the benchmarks call it.

use std::error::Error;
use std::process::Command;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What it prints; its own words are the error where it fails.
pub fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(arguments).output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let (words, status) = (arguments.join(" "), output.status);
        return Err(format!("docker {words}: {status}: {}", error.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
