//! Runs a program to its end, in a helper.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::pipe2;

use crate::messages::remedy::Remedy;
use crate::sys::read;
use crate::sys::signals::Inherited;
use crate::sys::spawn::{self, Child, Place, Session};

/// Runs the program at `path`, with an empty environment, and waits for its end. Returns how it
/// ended, and its output. The error names the program.
pub fn run(
    path: &Path,
    arguments: &[impl AsRef<OsStr>],
    inherited: &Inherited,
) -> Result<(WaitStatus, String)> {
    let shown = path.display();
    let null = read::null()
        .context("cannot open /dev/null")
        .remedy("check the container's /dev")?;
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)
        .context("cannot make a pipe")
        .remedy("raise the limit of open files")?;
    let words = arguments.iter().map(AsRef::as_ref);
    let pid = spawn::spawn(&Child {
        path,
        arguments: std::iter::once(path.as_os_str()).chain(words).collect(),
        environment: &[],
        stdio: Some([null.as_fd(), writer.as_fd(), writer.as_fd()]),
        descriptors: Vec::new(),
        session: Session::Own,
        dies_with_parent: true,
        oom_score_adj: None,
        limits: &[],
        inherited,
        umask: None,
        place: Place::Here,
    })
    .with_context(|| format!("cannot run {shown}"))?;
    drop(writer);
    let mut output = Vec::new();
    File::from(reader)
        .read_to_end(&mut output)
        .with_context(|| format!("cannot read the output of {shown}"))?;
    let end = waitpid(pid, None).with_context(|| format!("cannot wait for {shown}"))?;
    Ok((end, String::from_utf8_lossy(&output).into_owned()))
}
