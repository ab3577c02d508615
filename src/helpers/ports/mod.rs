//! Published ports of an engine that has a network namespace of its own: the API that dockerd asks
//! for each (`ROOTLESSKIT_STATE_DIR`), and the way from there to the containers.
//!
//! Two processes. The server is inside, where the containers can be reached: it serves the API and
//! passes on connections and datagrams, in one epoll(7) loop. The binder stays outside and binds
//! what the server asks for, once for each published port; nothing that comes over the network
//! passes through it. Each ends with the other, and another pair publishes again what this one had.
//!
//! dockerd 28 asks the API itself (libnetwork/drivers/bridge/internal/rlkclient in moby). 20.10 and
//! 26.1 execute `rootlesskit-docker-proxy` in the place of docker-proxy, which asks it:
//! `programs::docker_proxy`.
//!
//! A container sees the address of the gateway of its network, and not the client's, as with
//! docker-proxy and with rootlesskit.

mod binder;
mod datagrams;
mod holder;
mod kept;
mod server;

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use tracing::warn;

use crate::api::ports::Info;
use crate::messages::fault::{FAILURE, Fault};
use crate::messages::remedy::Remedy;
use crate::sys::process;

/// How long a client of UDP may be silent until it is forgotten: `UDPConnTrackTimeout` of
/// docker-proxy (cmd/docker-proxy in moby).
pub const IDLE: Duration = Duration::from_secs(90);

/// What follows from an end that is no kill: PID 1 starts nothing again that has exited.
const OVER: &str = "the server of published ports has ended, and they are no longer published";

/// What is served, and how.
#[derive(Debug)]
pub struct Service<'a> {
    /// The API's socket, which listens: `api.sock` in the directory `ROOTLESSKIT_STATE_DIR`.
    pub api: BorrowedFd<'a>,
    /// What `GET /v1/info` answers.
    pub info: Info,
    /// How long a client of UDP may be silent: [`IDLE`].
    pub idle: Duration,
}

/// Serves until an error that is not one of a single port or client. `enter` takes the calling
/// process into the namespaces of the engine. Forks: the server is a child of this process, which
/// becomes the binder.
pub fn run(service: Service<'_>, enter: impl FnOnce() -> nix::Result<()>) -> Result<()> {
    let pair = || -> nix::Result<_> {
        let (outside, inside) = binder::pair()?;
        binder::limit_patience(&inside)?;
        Ok((outside, inside))
    };
    let (outside, inside) = pair()
        .context("cannot serve published ports")
        .remedy("raise the limit of open files")?;
    let forked = process::fork()
        .context("cannot fork the server of published ports")
        .remedy("raise the container's pids limit")?;
    match forked {
        ForkResult::Child => {
            drop(outside);
            let status = match serve(service, enter, inside.as_fd()) {
                Ok(()) => 0,
                Err(error) => {
                    warn!("{}", Fault::from(error));
                    FAILURE
                }
            };
            process::exit_child(status.into())
        }
        ForkResult::Parent { child } => {
            drop(inside);
            binder::serve(outside.as_fd())
                .context("cannot bind published ports")
                .context(OVER)
                .remedy("restart the container")?;
            end_as(child)
        }
    }
}

/// Ends this process by the signal that has ended its child, so that PID 1 sees that, and starts
/// another. The error is another end, of which the child has said why.
fn end_as(child: Pid) -> Result<()> {
    let end = waitpid(child, None);
    if let Ok(WaitStatus::Signaled(_, signal, _)) = end {
        let _ = kill(Pid::this(), signal);
    }
    Err(anyhow!("the line before has the reason"))
        .context(OVER)
        .remedy("restart the container")
}

/// The server, until the binder has ended.
fn serve(
    service: Service<'_>,
    enter: impl FnOnce() -> nix::Result<()>,
    binder: BorrowedFd<'_>,
) -> Result<()> {
    enter()
        .context("cannot enter the namespaces of the engine")
        .remedy("see setns(2)")?;
    // After the change of credentials, which has taken it away: prctl(2).
    prctl::set_pdeathsig(Signal::SIGKILL)
        .context("the server of published ports cannot be tied to its parent")
        .remedy("check whether a seccomp profile forbids prctl(2)")?;
    let api = service.api.try_clone_to_owned().map(UnixListener::from);
    let api = api
        .and_then(|api| api.set_nonblocking(true).map(|()| api))
        .context("cannot serve the API of published ports")
        .remedy("raise the limit of open files")?;
    server::Server::new(api, binder, service.info, service.idle)?.run()
}
