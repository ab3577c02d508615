//! Talks to the daemon of `DOCKER_HOST` over mutual TLS, with the files in
//! `DOCKER_CERT_PATH`: prints its version, runs a container and prints what that prints.
//!
//!     bollard-client IMAGE COMMAND [ARGUMENT...]

#![expect(
    clippy::disallowed_methods,
    reason = "the top's clippy.toml is for dind, and this is no part of it"
)]

use std::error::Error;
use std::path::PathBuf;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, LogsOptions, RemoveContainerOptions, StartContainerOptions,
    WaitContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;

/// Seconds, against hanging.
const TIMEOUT: u64 = 300;

fn main() -> Result<(), Box<dyn Error>> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "rustls has a provider already")?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let host = std::env::var("DOCKER_HOST")?;
    let files = PathBuf::from(std::env::var("DOCKER_CERT_PATH")?);
    let [key, certificate, ca] = ["key.pem", "cert.pem", "ca.pem"].map(|name| files.join(name));
    let docker =
        Docker::connect_with_ssl(&host, &key, &certificate, &ca, TIMEOUT, API_DEFAULT_VERSION)?
            .negotiate_version()
            .await?;
    docker.ping().await?;
    println!(
        "version {}",
        docker.version().await?.version.unwrap_or_default()
    );

    let mut arguments = std::env::args().skip(1);
    let container = ContainerCreateBody {
        image: arguments.next(),
        cmd: Some(arguments.collect()),
        ..ContainerCreateBody::default()
    };
    let id = docker
        .create_container(None::<CreateContainerOptions>, container)
        .await?
        .id;
    docker
        .start_container(&id, None::<StartContainerOptions>)
        .await?;
    let mut ends = docker.wait_container(&id, None::<WaitContainerOptions>);
    while let Some(end) = ends.next().await {
        println!("status {}", end?.status_code);
    }
    let logs = LogsOptions {
        stdout: true,
        ..LogsOptions::default()
    };
    let mut lines = docker.logs(&id, Some(logs));
    while let Some(line) = lines.next().await {
        print!("{}", line?);
    }
    docker
        .remove_container(&id, None::<RemoveContainerOptions>)
        .await?;
    Ok(())
}
