//! `rootlesskit-docker-proxy`: publishes a port by the API of `helpers::ports`, and becomes
//! docker-proxy. dockerd 20.10 and 26.1 execute it; from 28 on dockerd asks the API itself.
//!
//! This process holds the port, and so docker-proxy does: it is free again whenever and however that
//! one ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tracing::warn;

use crate::api::answer::Answer;
use crate::api::ports::{NO_IPV6, Protocol, Spec};
use crate::input::docker_proxy::Proxy;
use crate::messages::fault::Fault;
use crate::messages::remedy::Remedy;
use crate::sys::descriptors;

/// The variable by which dockerd finds the API.
const STATE: &str = "ROOTLESSKIT_STATE_DIR";

/// Where dockerd waits for the outcome: `Start` in moby's libnetwork/portmapper/proxy_linux.go.
const OUTCOME: RawFd = 3;

/// How long the API may take. dockerd waits for 16 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// To become this command, which tells dockerd the outcome.
    Become(Vec<OsString>),
    /// Nothing: dockerd knows.
    Nothing,
}

/// Publishes a port. What cannot be published at all is left out with a warning, as dockerd does
/// it from 28 on (`configPortDriver` in its libnetwork/drivers/bridge). The error is that of the
/// port, as dockerd shows it to the user.
pub fn publish(proxy: &Proxy, environment: &[(OsString, OsString)]) -> Result<Next> {
    let protocol = match proxy.protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Ok(leave_out(proxy, &format!("{other} is not forwarded"))),
    };
    let spec = Spec {
        protocol,
        parent: proxy.host.into(),
        child: proxy.container.into(),
    };
    let state = environment.iter().find(|(name, _)| name == STATE);
    let (_, state) = state.with_context(|| format!("{STATE} is not set"))?;
    let api = Path::new(state).join("api.sock");
    let (status, answer) = ask(&api, &spec)
        .with_context(|| format!("cannot publish a port by {}", api.display()))
        .remedy("see the log of dind")?;
    let message = answer.get("message").and_then(Value::as_str);
    match (status, message) {
        (201, _) => {}
        (NO_IPV6, message) => {
            return Ok(leave_out(
                proxy,
                message.unwrap_or("there is no IPv6 outside"),
            ));
        }
        (_, Some(message)) => bail!("{message}"),
        (status, None) => bail!("{} answered with status {status}", api.display()),
    }
    let name = OsString::from("docker-proxy");
    Ok(Next::Become(
        [name].into_iter().chain(proxy.inside()).collect(),
    ))
}

/// Tells dockerd that the port is published, though it is not.
fn leave_out(proxy: &Proxy, reason: &str) -> Next {
    let Proxy { host, protocol, .. } = proxy;
    let (ip, port) = host;
    warn!(
        address = %ip,
        "port {port}/{protocol} of {ip} is not published, since {reason}; publish it elsewhere"
    );
    tell("0\n");
    Next::Nothing
}

/// Sends the request. Returns the status of the answer, and its content.
fn ask(api: &Path, spec: &Spec) -> Result<(u16, Value)> {
    let mut stream = UnixStream::connect(api)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let content = spec.json().to_string();
    let request = format!(
        "POST /v1/ports HTTP/1.1\r\nHost: dind\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{content}",
        content.len()
    );
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut content) = (Answer::default(), Vec::new());
    let mut buffer = [0; 1024];
    while !answer.is_complete() {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            bail!("the connection has ended");
        }
        answer.take(buffer.get(..count).unwrap_or_default(), &mut content)?;
    }
    let status = answer.status().unwrap_or_default();
    let content = serde_json::from_slice(&content).unwrap_or_default();
    Ok((status, content))
}

/// Returns the environment with the place of the API: that of this program, by whose path a dockerd has
/// executed it that is not told of it.
pub fn told(environment: &[(OsString, OsString)], program: &Path) -> Vec<(OsString, OsString)> {
    let mut environment = environment.to_vec();
    let is_told = environment.iter().any(|(name, _)| name == STATE);
    if let Some(directory) = program.parent().filter(|_| !is_told) {
        environment.push((STATE.into(), directory.into()));
    }
    environment
}

/// Tells dockerd why there is no proxy: it shows the text after the first line.
pub fn tell_failure(fault: &Fault) {
    tell(&format!("1\n{fault}"));
}

fn tell(text: &str) {
    // Nobody waits where somebody else has executed this.
    let _ = File::from(descriptors::own(OUTCOME)).write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_is_beside_the_program_where_dockerd_is_not_told_of_it() {
        let place = |environment: &[(OsString, OsString)], program: &str| {
            let environment = told(environment, Path::new(program));
            let mut found = environment.into_iter().filter(|(name, _)| name == STATE);
            found.next().map(|(_, value)| value)
        };
        let program = "/run/dind/ports/rootlesskit-docker-proxy";
        assert_eq!(place(&[], program), Some("/run/dind/ports".into()));
        let told = [(STATE.into(), "/elsewhere".into())];
        assert_eq!(place(&told, program), Some("/elsewhere".into()));
    }
}
