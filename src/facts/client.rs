//! The CLI, socket and certificates that a client of another daemon can use.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::input::config::{Config, DOCKER_SOCKET};
use crate::sys::search::search;

/// What a client of another daemon can use in this container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// Whether the docker CLI is in `PATH`.
    pub docker: bool,
    /// The subcommands that the CLI's plugins add, such as `compose` and `buildx`.
    pub plugins: BTreeSet<String>,
    /// Whether `/var/run/docker.sock` is a socket.
    pub socket: bool,
    /// Whether `ca.pem`, `cert.pem` and `key.pem` in `DOCKER_TLS_CERTDIR/client` exist and
    /// are not empty.
    pub certificates: bool,
    /// Whether this user has no permission to search `DOCKER_TLS_CERTDIR/client`.
    pub certificates_hidden: bool,
    /// Whether the same three files are in `DOCKER_CERT_PATH` or, where that is unset, in
    /// `DOCKER_CONFIG`.
    pub own_certificates: bool,
}

impl ClientFacts {
    /// Looks for them where the environment in `config` points. A file that cannot be read
    /// counts as missing.
    pub fn read(config: &Config) -> Self {
        let has_all = |directory: &Path| {
            ["ca.pem", "cert.pem", "key.pem"]
                .iter()
                .all(|name| fs::metadata(directory.join(name)).is_ok_and(|found| found.len() > 0))
        };
        let is_hidden = |directory: &Path| {
            fs::metadata(directory.join("ca.pem"))
                .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        let ours = config.client_certificates();
        let own = config.certificate_path.as_deref();
        Self {
            docker: search("docker", &config.search_path).is_some(),
            plugins: plugins(config),
            socket: fs::metadata(DOCKER_SOCKET).is_ok_and(|found| found.file_type().is_socket()),
            certificates: ours.as_deref().is_some_and(has_all),
            certificates_hidden: ours.as_deref().is_some_and(is_hidden),
            own_certificates: own.or(config.docker_config.as_deref()).is_some_and(has_all),
        }
    }
}

/// The docker CLI's plugins in the directories that it searches (docker/cli,
/// cli-plugins/manager): the file `docker-compose` there is the subcommand `compose`.
fn plugins(config: &Config) -> BTreeSet<String> {
    let system = [
        "/usr/local/lib/docker/cli-plugins",
        "/usr/local/libexec/docker/cli-plugins",
        "/usr/lib/docker/cli-plugins",
        "/usr/libexec/docker/cli-plugins",
    ];
    system
        .into_iter()
        .map(PathBuf::from)
        .chain(
            config
                .docker_config
                .as_ref()
                .map(|own| own.join("cli-plugins")),
        )
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix("docker-").map(str::to_owned)
        })
        .collect()
}
